"""The ways of `ics`: attached and idle, the statistics of each preset, at every step and at every tenth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import ics
from ics.experiments.benchmarking.ways import STATISTICS
from scripts.bench.suite.nets import Training
from scripts.bench.suite.ways import Running, Start, Way

NEVER = ics.at([10**9])

Instruments = Mapping[str, Any]
Options = Mapping[str, Mapping[str, Any]]

MEANINGS = {
    "light": "every layer's input, output before and after normalisation, and activation: count, mean, central "
    "moments 2 to 4, extrema, zero, negative, saturated and non-finite counts, pooled over channels",
    "histograms": "as light, and a histogram of each (1025 buckets per sign, of at most 65 536 values)",
    "standard": "as histograms; moments and histograms of parameter gradients, norms of parameters and updates; "
    "statistics of normalisation layers",
    "gradients": "as histograms, and the same of the gradient of each of these and of each parameter",
    "full": "as gradients and standard, and all of it per channel",
}


FLUSH_EVERY = 200
"""Steps after which a recorder hands over what it has: its default, written out because blocks are laid around it."""


def recorded(instruments: Instruments, options: Options | None = None) -> Start:
    """Return the way to train with a recorder, as the README does."""

    @contextmanager
    def start(training: Training) -> Iterator[Running]:
        with ics.Recorder(
            training.model,
            to=training.folder / "run",
            optimizer=training.optimizer,
            instruments=instruments,
            options=options,
            flush_every=FLUSH_EVERY,
            strict=True,
        ) as recorder:
            writing = recorder._buffer._background  # waiting for it is no user's business, and so not public

            def step() -> None:
                batch = training.next_batch()
                with recorder.step(batch) as recording:
                    recording.log(loss=training.update(batch))

            yield Running(step, writing.wait)

    return start


def preset(name: str, interval: int) -> Start:
    """Return the way that takes a preset's statistics of the pass every `interval` steps.

    What evaluates the loss elsewhere costs whole steps, is due once in hundreds, and has a page of its own.
    """
    chosen = ics.PRESETS[name]
    return recorded({key: interval for key in chosen.schedules if key in STATISTICS}, chosen.options)


def pooled(*instruments: str, interval: int) -> Start:
    """Return the way that takes pooled statistics and histograms of all sites, or of their gradients, or both."""
    options = {"per_channel": False, "histogram": True}
    return recorded(dict.fromkeys(instruments, interval), dict.fromkeys(instruments, options))


def _ways() -> Iterator[tuple[str, Way]]:
    yield "idle", Way("ics, attached and idle", "nothing", recorded({"activations": NEVER}), "ics", 0)
    starts: dict[str, Callable[[int], Start]] = {name: partial(preset, name) for name in ics.PRESETS}
    starts["histograms"] = lambda interval: pooled("activations", interval=interval)
    starts["gradients"] = lambda interval: pooled("activations", "gradients", interval=interval)
    for name in MEANINGS:
        use = f'`ics.Recorder`: what the preset "{name}" takes in the pass' if name in ics.PRESETS else "`ics.Recorder`"
        yield name, Way(f"ics {name}", MEANINGS[name], starts[name](1), "ics", use=use)
        yield f"{name}_10", Way(f"ics {name}, every 10th step", MEANINGS[name], starts[name](10), "ics", 10)


ICS: Mapping[str, Way] = dict(_ways())
