"""Which ways are timed together, how often, and in how long blocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ics.errors import unknown_name
from scripts.bench.suite.nets import Net
from scripts.bench.suite.ways import Way

OWN = ("light", "histograms", "standard", "gradients", "full")
EVERY_10TH = tuple(f"{name}_10" for name in OWN)


@dataclass(frozen=True, slots=True)
class Stage:
    """Ways that take turns within one process.

    Attributes:
        ways: their names; the first is plain.
        rounds: how often each is timed on a net of blocks, and `slow_rounds` on a net that is timed step by step.
        seconds: no further round begins after so many, but two are finished.
        block: steps timed in one go, where it is not the net's own; it also says that only nets of blocks have it.
    """

    ways: tuple[str, ...]
    rounds: int
    slow_rounds: int
    seconds: float = 180.0
    block: int | None = None

    def suits(self, net: Net) -> bool:
        """Return whether the stage is run for a net: fractions of a per cent cannot be told of single steps."""
        return self.block is None or net.block > 1

    def block_of(self, way: Way, net: Net) -> int:
        """Return how many steps of a way are timed in one go."""
        if way.kind == "rival":
            return net.slow_block
        return self.block or net.block

    def chosen(self, ways: Mapping[str, Way], wanted: Collection[str], net: Net) -> dict[str, Way]:
        """Return the stage's ways that were wanted (all, if none were named), plain always.

        What is recorded at every 10th step is left out where a block does not hold ten.

        Raises:
            SelectionError: a way that is not there.
        """
        for name in wanted:
            if name not in ways:
                raise unknown_name("way", name, ways)
        names = [name for name in self.ways if not wanted or name in wanted or name == "plain"]
        return {name: ways[name] for name in names if self.block_of(ways[name], net) % max(ways[name].interval, 1) == 0}


STAGES: Mapping[str, Stage] = {
    # Half a per cent is asked about: short blocks, many rounds, nothing else in between.
    "idle": Stage(("plain", "plain_again", "idle"), rounds=150, slow_rounds=0, seconds=60.0, block=10),
    "ics": Stage(("plain", "plain_again", "idle", *OWN, *EVERY_10TH), rounds=11, slow_rounds=6),
    "all": Stage(
        (
            "plain",
            "light",
            "histograms",
            "gradients",
            "hooks",
            "torchinstruments",
            "torchlens",
            "torchlens_histogram",
            "tensorboard",
            "tensorboardx",
            "wandb",
            "monitorch",
            "cockpit",
        ),
        rounds=5,
        slow_rounds=3,
    ),
}
