"""Which rows of a planned pass can wait for its end, to be measured together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from ics import stats
from ics.probes.following.normalized import reduce_normalized
from ics.probes.following.tracker import Site
from ics.probes.normalization.terms import is_plain_batchnorm, uses_batch_statistics
from ics.probes.planned.table_rows import TableRows
from ics.probes.structure.tensors import version_of

_LARGEST = 2**15  # values of a tensor; measuring a larger one takes longer than calling does
MOST_WAITING = 2**21  # values of all that wait: they live until the end of the pass


@dataclass(slots=True)
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


@dataclass(frozen=True, slots=True)
class Wait:
    """A row that waits for the end of every pass.

    Attributes:
        row: number of the row.
        of_output: whether it is of what the visited module returned, not of what it took.
        task: the layout that the tensor must have.
        module: of x-hat the normalisation, else None.
        made_by: of x-hat the row of the input.
    """

    row: int
    of_output: bool
    task: stats.Task
    module: nn.Module | None
    made_by: int | None


Tasks = dict[int, tuple[int, stats.Task]]
"""Row to its number in a group, and the layout that its tensor must have."""


@dataclass
class Deferral:
    """The rows that wait, and the group that measures them. Worked out at the end of the first planned pass.

    Attributes:
        tasks: what is measured; empty before.
        places: row to its number, those included that have the statistics of another row.
        group: the group; None if there is none (yet).
        settled: whether it has been worked out.
    """

    tasks: Tasks = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)
    group: stats.Group | None = None
    settled: bool = False

    def settle(self, tasks: Tasks, aliases: Mapping[int, int], *, histogram: bool, per_channel: bool) -> None:
        """Work out how these rows, and the `aliases` of any of them, are measured together."""
        self.settled = True
        self.group = stats.group_of([task for _, task in tasks.values()], histogram=histogram, per_channel=per_channel)
        if self.group is not None:
            self.tasks = tasks
            self.places = {row: number for row, (number, _) in tasks.items()}
            self.places |= {row: tasks[made_by][0] for row, made_by in aliases.items() if made_by in tasks}


class Queue:
    """What waits in one pass after another of one step.

    Args:
        deferral: what is known of the rows that can wait; worked out at the end of the first pass, if it is not.
        sites: the site of each row.
        aliases: rows that have the statistics of another, if that waits.
        rows: what takes the statistics.
        histogram: whether to count histograms.
        per_channel: whether to keep statistics per channel.
    """

    def __init__(
        self,
        deferral: Deferral,
        sites: Sequence[Site],
        aliases: Mapping[int, int],
        rows: TableRows,
        *,
        histogram: bool,
        per_channel: bool,
    ) -> None:
        self._deferral, self._sites, self._aliases, self._rows = deferral, sites, aliases, rows
        self._histogram, self._per_channel = histogram, per_channel
        self._waiting: dict[int, Waiting] = {}

    def takes_all(self, waits: Sequence[Wait], needed: int | None, x: Tensor, output: Tensor) -> bool:
        """Have all rows of a visit wait, or none of them; return which.

        Args:
            waits: the rows, all of which are known to wait.
            needed: the row that made the input, where others have its statistics or are measured by them.
            x: what the module took.
            output: what it returned.
        """
        if needed is not None and needed not in self._waiting:
            return False
        kept = []
        for wait in waits:
            tensor, module = output if wait.of_output else x, wait.module
            if not wait.task.fits(tensor) or not (module is None or uses_batch_statistics(module)):
                return False
            kept.append(Waiting(wait.row, tensor, tensor._version, module, wait.made_by))
        for each in kept:
            self._waiting[each.row] = each
        return True

    def takes(self, row: int, tensor: Tensor, module: nn.Module | None = None, made_by: int | None = None) -> bool:
        """Return whether the row will be measured at the end; until that is known it is measured at once.

        Args:
            row: number of the row.
            tensor: what is measured; of x-hat the input.
            module: of x-hat the normalisation.
            made_by: of x-hat the row of the input.
        """
        if self._deferral.settled:
            known = self._deferral.tasks.get(row)
            if known is None or not known[1].fits(tensor):
                return False
        elif not is_small(tensor):
            return False
        if module is not None and not (
            made_by in self._waiting and is_plain_batchnorm(module) and uses_batch_statistics(module)
        ):
            return False
        self._waiting[row] = Waiting(row, tensor, version_of(tensor), module, made_by)
        return self._deferral.settled

    def takes_alias(self, row: int) -> bool:
        """Return whether the row will have the statistics of another, which waits."""
        return self._deferral.settled and self._aliases.get(row) in self._waiting

    def finish(self) -> bool:
        """Measure what waits at the end of a pass; False if someone wrote to it, and it is lost."""
        waiting, self._waiting = self._waiting, {}
        deferral = self._deferral
        if not deferral.settled:
            tasks = _tasks(waiting.values(), self._sites)
            deferral.settle(tasks, self._aliases, histogram=self._histogram, per_channel=self._per_channel)
            return True
        for each in waiting.values():
            if each.version != version_of(each.tensor):
                return False
        if deferral.group is not None and len(waiting) == len(deferral.tasks):
            found = deferral.group.measure([each.tensor for each in waiting.values()])
            self._rows.add_together(deferral.places, found)
        else:
            self._one_by_one(waiting.values())
        return True

    def _one_by_one(self, waiting: Iterable[Waiting]) -> None:
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
        for row, reduced in measured.items():
            self._rows.add(row, reduced)
        for row, made_by in self._aliases.items():
            if made_by in measured:
                self._rows.add(row, measured[made_by])


def _tasks(seen: Iterable[Waiting], sites: Sequence[Site]) -> Tasks:
    """Return which of the rows of a pass can wait: small, on a CPU, and not written to until its end."""
    tasks: Tasks = {}
    values = 0
    for each in seen:
        x = each.tensor
        base = None if each.made_by is None else tasks.get(each.made_by)
        if not each.untouched or values + x.numel() > MOST_WAITING or (each.module is not None and base is None):
            continue
        task = stats.Task(
            tuple(x.shape),
            x.stride(),
            x.dtype,
            sites[each.row].axis,
            sites[each.row].asymptotes,
            None if base is None else base[0],
            getattr(each.module, "eps", 0.0),
        )
        tasks[each.row] = len(tasks), task
        values += x.numel()
    return tasks


def is_small(tensor: Tensor) -> bool:
    """Return whether a tensor is on a CPU, and so small that calling takes longer than measuring it."""
    return tensor.is_cpu and 0 < tensor.numel() <= _LARGEST and not tensor.is_inference()
