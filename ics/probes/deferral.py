"""Which rows of a planned pass can wait for its end, to be measured together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from ics import stats
from ics.probes.normalization import is_plain_batchnorm, uses_batch_statistics
from ics.probes.sites import Site
from ics.probes.tensors import version_of
from ics.probes.xhat import reduce_normalized

_LARGEST = 2**15  # values of a tensor; measuring a larger one takes longer than calling does
_MOST = 2**21  # values of all that wait: they live until the end of the pass


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row, the tensor that it is measured on, and the version of that at its visit.

    Attributes:
        row: number of the row.
        tensor: what is measured; of x-hat the input of the normalisation.
        version: its version.
        module: of x-hat the normalisation, else None.
        made_by: of x-hat the row of the input.
    """

    row: int
    tensor: Tensor
    version: int
    module: nn.Module | None = None
    made_by: int | None = None

    @property
    def untouched(self) -> bool:
        """Whether nobody has written to the tensor since."""
        return self.version == version_of(self.tensor)


@dataclass
class Deferral:
    """The rows that wait, and the group that measures them. Worked out at the end of the first planned pass.

    Attributes:
        tasks: row to its number in the group, and the layout that its tensor must have; empty before.
        group: the group; None if there is none (yet).
        settled: whether it has been worked out.
    """

    tasks: dict[int, tuple[int, stats.Task]] = field(default_factory=dict)
    group: stats.Group | None = None
    settled: bool = False

    def takes(self, row: int, tensor: Tensor) -> bool:
        """Return whether a row can wait."""
        known = self.tasks.get(row)
        return known is not None and known[1].fits(tensor)

    def settle(self, seen: Sequence[Waiting], sites: Sequence[Site], *, histogram: bool) -> None:
        """Work out which of the rows of a pass can wait: small, on a CPU, and not written to until its end."""
        self.settled = True
        tasks: dict[int, tuple[int, stats.Task]] = {}
        values = 0
        for each in seen:
            x = each.tensor
            base = None if each.made_by is None else tasks.get(each.made_by)
            if not each.untouched or values + x.numel() > _MOST or (each.module is not None and base is None):
                continue
            tasks[each.row] = (
                len(tasks),
                stats.Task(
                    tuple(x.shape),
                    x.stride(),
                    x.dtype,
                    sites[each.row].axis,
                    sites[each.row].asymptotes,
                    None if base is None else base[0],
                    getattr(each.module, "eps", 0.0),
                ),
            )
            values += x.numel()
        self.group = stats.group_of([task for _, task in tasks.values()], histogram=histogram)
        self.tasks = {} if self.group is None else tasks


class Queue:
    """What waits in one pass after another of one step.

    Args:
        deferral: what is known of the rows that can wait; worked out at the end of the first pass, if it is not.
        sites: the site of each row.
        histogram: whether to count histograms.
    """

    def __init__(self, deferral: Deferral, sites: Sequence[Site], *, histogram: bool) -> None:
        self._deferral, self._sites, self._histogram = deferral, sites, histogram
        self._waiting: list[Waiting] = []
        self._aliases: list[tuple[int, int]] = []
        self._rows: set[int] = set()

    def takes(self, row: int, tensor: Tensor, *, normalization: tuple[nn.Module, int] | None = None) -> bool:
        """Return whether the row will be measured at the end; until that is known it is measured at once.

        Args:
            row: number of the row.
            tensor: what is measured; of x-hat the input.
            normalization: of x-hat the normalisation, and the row of the input.
        """
        if self._deferral.settled:
            if not self._deferral.takes(row, tensor):
                return False
        elif not _is_small(tensor):
            return False
        module, made_by = normalization or (None, None)
        if module is not None and not (
            is_plain_batchnorm(module) and uses_batch_statistics(module) and made_by in self._rows
        ):
            return False
        self._rows.add(row)
        self._waiting.append(Waiting(row, tensor, version_of(tensor), module, made_by))
        return self._deferral.settled

    def takes_alias(self, row: int, made_by: int) -> bool:
        """Return whether the row will have the statistics of another, which waits."""
        if self._deferral.settled and made_by in self._rows:
            self._aliases.append((row, made_by))
            return True
        return False

    def finish(self) -> list[tuple[int, stats.Reduced]] | None:
        """Measure what waits at the end of a pass; None if someone wrote to it, and it is lost."""
        waiting, aliases, deferral = self._waiting, self._aliases, self._deferral
        self._waiting, self._aliases, self._rows = [], [], set()
        if not deferral.settled:
            deferral.settle(waiting, self._sites, histogram=self._histogram)
            return []
        if not all(each.untouched for each in waiting):
            return None
        if deferral.group is not None and len(waiting) == len(deferral.tasks):
            found = deferral.group.measure([each.tensor for each in waiting])
            measured = dict(zip([each.row for each in waiting], found, strict=True))
        else:
            measured = self._one_by_one(waiting)
        return [*measured.items(), *((row, measured[made_by]) for row, made_by in aliases if made_by in measured)]

    def _one_by_one(self, waiting: Sequence[Waiting]) -> dict[int, stats.Reduced]:
        measured: dict[int, stats.Reduced] = {}
        for each in waiting:
            site = self._sites[each.row]
            if each.module is not None:
                known = None if each.made_by is None else measured.get(each.made_by)
                measured[each.row] = reduce_normalized(
                    each.module, each.tensor, axis=site.axis, known=known, histogram=self._histogram
                )
            else:
                measured[each.row] = stats.reduce(
                    each.tensor, channel_axis=site.axis, saturation=site.asymptotes, histogram=self._histogram
                )
        return measured


def _is_small(tensor: Tensor) -> bool:
    return tensor.is_cpu and 0 < tensor.numel() <= _LARGEST and not tensor.is_inference()
