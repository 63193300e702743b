"""Rows of a planned pass that are measured together, in one call of the kernels, once the last of them has come.

Of a small tensor, calling a kernel takes longer than measuring does. So small tensors are kept until the end of their
pass, and a group (`ics.stats.group_of`) measures all of them. Nobody should write to a tensor meanwhile; whoever does
is found by its version, and the plan is lost. What a module's own backward pass would free stays in memory that long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import string_at
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ics import stats
from ics.probes.following.normalized import reduce_normalized
from ics.probes.following.tracker import Site
from ics.probes.normalization.terms import is_plain_batchnorm, uses_batch_statistics
from ics.probes.planned.table_rows import TableRows
from ics.probes.structure.tensors import Window, version_of, whole_window, window_of

_LARGEST = 2**15  # values of a tensor; measuring a larger one takes longer than calling does
_MOST_KEPT = 2**21  # values of all that are kept: they live until the end of the pass

Tasks = dict[int, tuple[int, stats.Task]]
"""Row to its number in a group, and the layout that its tensor must have."""


class PlanLostError(Exception):
    """The model did not do what its plan says."""


@dataclass(slots=True)
class BufferedRow:
    """A row whose tensor is kept until it is measured with others.

    Attributes:
        tensor: what is measured; of x-hat the input of the normalisation.
        version: its version when it came.
        module: of x-hat the normalisation, else None.
        made_by: of x-hat the row of the input.
        scale: of the gradient of x-hat a copy of gamma, by which it is multiplied.
        content: bytes of the tensor when it came; None of x-hat, whose input has a row of its own.
        address: where they were.
        offset: how far from its beginning.
    """

    tensor: Tensor
    version: int
    module: nn.Module | None = None
    made_by: int | None = None
    scale: Tensor | None = None
    content: bytes | None = None
    address: int = 0
    offset: int = 0

    def is_written(self) -> bool:
        """Return whether someone has written to the tensor since, past its version (`.data`, numpy) or not."""
        if self.version != version_of(self.tensor):
            return True
        content, address = self.content, self.address
        if content is None:
            return False
        # `tensor.data = other` puts another memory under the tensor, and frees this one.
        return self.tensor.data_ptr() + self.offset != address or string_at(address, len(content)) != content


@dataclass(frozen=True, slots=True)
class BatchedRow:
    """A row of values that is measured with others in every pass.

    Attributes:
        number: number of the row.
        of_output: whether it is of what the module returned, not of what it took.
        task: the layout that the tensor must have.
        module: of x-hat the normalisation, else None.
        made_by: of x-hat the row of the input.
        window: which bytes of the tensor are compared once it is measured.
    """

    number: int
    of_output: bool
    task: stats.Task
    module: nn.Module | None
    made_by: int | None
    window: Window


@dataclass
class BatchLayout:
    """Which rows are measured together, and the group that measures them. Worked out at the end of the first pass.

    Attributes:
        tasks: what is measured; empty before.
        places: row to its number, those included that have the statistics of another row.
        group: the group; None if there is none (yet).
        is_settled: whether it has been worked out.
        windows: row to the bytes of its tensor that are compared.
    """

    tasks: Tasks = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)
    group: stats.Group | None = None
    is_settled: bool = False
    windows: dict[int, Window] = field(default_factory=dict)

    def settle(self, tasks: Tasks, aliases: Mapping[int, int], *, histogram: bool, per_channel: bool) -> None:
        """Work out how these rows, and the `aliases` of any of them, are measured together."""
        self.is_settled = True
        self.group = stats.group_of([task for _, task in tasks.values()], histogram=histogram, per_channel=per_channel)
        # Without kernels there is no group, and `tasks` stays empty: every row is then measured at once.
        if self.group is not None:
            self.tasks = tasks
            self.windows = {
                row: window_of(task.shape, task.strides, task.dtype.itemsize) for row, (_, task) in tasks.items()
            }
            self.places = {row: number for row, (number, _) in tasks.items()}
            self.places |= {row: tasks[made_by][0] for row, made_by in aliases.items() if made_by in tasks}


class RowBuffer:
    """The rows of one table that are kept in the passes of a step, and measured together.

    Args:
        layout: which rows these are; worked out when the first pass ends.
        sites: the site of each row.
        aliases: rows that have the statistics of another.
        table: what takes the statistics.
        histogram: whether to count histograms.
        per_channel: whether to keep statistics per channel.
        of_gradients: whether the rows are of gradients. Nothing tells that a backward pass has ended, so they are
            measured as soon as the last of them has come.
    """

    def __init__(
        self,
        layout: BatchLayout,
        sites: Sequence[Site],
        aliases: Mapping[int, int],
        table: TableRows,
        *,
        histogram: bool,
        per_channel: bool,
        of_gradients: bool = False,
    ) -> None:
        self._layout, self._sites, self._aliases, self._table = layout, sites, aliases, table
        self._histogram, self._per_channel, self._of_gradients = histogram, per_channel, of_gradients
        self._rows: dict[int, BufferedRow] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def clear(self) -> None:
        """Drop what is kept."""
        self._rows = {}

    def add_all(self, rows: Sequence[BatchedRow], needed: int | None, x: Tensor, output: Tensor) -> bool:
        """Keep all rows of a call, or none of them; return which.

        Args:
            rows: the rows, all of the layout.
            needed: the row that made the input, where others have its statistics or are measured by them.
            x: what the module took.
            output: what it returned.
        """
        if needed is not None and needed not in self._rows:
            return False
        # Checked first and kept after: a call of which some rows were kept could not be measured at once any more.
        kept = []
        for row in rows:
            tensor, module = output if row.of_output else x, row.module
            if not row.task.fits(tensor) or not (module is None or uses_batch_statistics(module)):
                return False
            # The attribute itself, since a call of `version_of` takes longer, and this runs for every small tensor.
            if module is None:
                offset, size = row.window
                address = tensor.data_ptr() + offset
                own = BufferedRow(tensor, tensor._version, None, None, None, string_at(address, size), address, offset)
            else:
                own = BufferedRow(tensor, tensor._version, module, row.made_by)
            kept.append((row.number, own))
        self._rows.update(kept)
        return True

    def add(
        self,
        row: int,
        tensor: Tensor,
        module: nn.Module | None = None,
        made_by: int | None = None,
        scale: Tensor | None = None,
    ) -> bool:
        """Keep a row if it can be measured with others, and return whether it will be; if not, measure it at once.

        In the first pass, whose end settles the layout, every row is to be measured at once.

        Args:
            row: number of the row.
            tensor: what is measured; of x-hat the input.
            module: of x-hat the normalisation.
            made_by: of x-hat the row of the input.
            scale: of the gradient of x-hat gamma, shaped so that it multiplies the gradient.
        """
        if row in self._rows:  # another backward pass has begun, and the last one did not reach all rows
            self.measure()
        layout = self._layout
        if layout.is_settled:
            own = layout.tasks.get(row)
            if own is None or not own[1].fits(tensor) or own[1].scaled is (scale is None):
                return False
        elif not is_small(tensor):
            return False
        # The group forms x-hat from the mean and variance of another of its tensors, so that must be in it too.
        if module is not None and not (
            made_by in self._rows and is_plain_batchnorm(module) and uses_batch_statistics(module)
        ):
            return False
        if scale is not None:
            if not _is_exact(tensor, scale, self._sites[row].axis):
                return False
            scale = scale.clone()  # an optimizer may step within the backward pass
        # Once in the life of a plan all bytes are compared: who writes always, wherever, is found out then.
        # Who writes to a gradient past its version is a hook of the user's, there from the first pass on or never.
        content, address, offset = None, 0, 0
        if module is None and not (self._of_gradients and layout.is_settled):
            offset, size = layout.windows[row] if layout.is_settled else whole_window(tensor)
            address = tensor.data_ptr() + offset
            content = string_at(address, size)
        self._rows[row] = BufferedRow(tensor, version_of(tensor), module, made_by, scale, content, address, offset)
        if self._of_gradients and layout.is_settled and len(self._rows) == len(layout.tasks):
            self.measure()
        return layout.is_settled

    def shares(self, row: int) -> bool:
        """Return whether the row will have the statistics of another, which is kept."""
        return self._layout.is_settled and self._aliases.get(row) in self._rows

    def measure(self) -> None:
        """Measure what is kept, or settle the layout after the first pass; `PlanLostError` if someone wrote to it."""
        rows, self._rows = self._rows, {}
        layout = self._layout
        if not layout.is_settled:
            tasks = self._tasks(rows)
            layout.settle(tasks, self._aliases, histogram=self._histogram, per_channel=self._per_channel)
            return
        # An in-place operation after the hook overwrote what should have been measured; it cannot be had back.
        for each in rows.values():
            if each.is_written():
                raise PlanLostError
        if layout.group is not None and len(rows) == len(layout.tasks):
            # Gradients come in the order of the backward pass, but a group takes its tensors in the order of its tasks.
            ordered = [rows[row] for row in layout.tasks]
            factors = [each.scale for each in ordered if each.scale is not None]
            found = layout.group.measure([each.tensor for each in ordered], factors=factors)
            self._table.add_together(layout.places, found)
        else:
            self._measure_each(rows)

    def _measure_each(self, rows: Mapping[int, BufferedRow]) -> None:
        # Not all rows are here: a tensor had another shape, or the backward pass reached only some of them.
        measured: dict[int, stats.Reduced] = {}
        for row, each in rows.items():
            site = self._sites[row]
            if each.module is not None:
                of_input = None if each.made_by is None else measured.get(each.made_by)
                measured[row] = reduce_normalized(
                    each.module, each.tensor, axis=site.axis, of_input=of_input, histogram=self._histogram
                )
            else:
                values = each.tensor if each.scale is None else each.tensor * each.scale
                saturation = None if self._of_gradients else site.asymptotes
                measured[row] = stats.reduce(
                    values, channel_axis=site.axis, saturation=saturation, histogram=self._histogram
                )
        for row, reduced in measured.items():
            self._table.add(row, reduced)
        for row, made_by in self._aliases.items():
            if made_by in measured:
                self._table.add(row, measured[made_by])

    def _tasks(self, rows: Mapping[int, BufferedRow]) -> Tasks:
        """Return which rows can be measured together: of tensors that were not written to until the end of the pass."""
        tasks: Tasks = {}
        values = 0
        for row, each in rows.items():
            x, site = each.tensor, self._sites[row]
            base = None if each.made_by is None else tasks.get(each.made_by)
            # A row that is left out here is measured at once in every later pass.
            if each.is_written() or values + x.numel() > _MOST_KEPT or (each.module is not None and base is None):
                continue
            task = stats.Task(
                tuple(x.shape),
                x.stride(),
                x.dtype,
                site.axis,
                None if self._of_gradients else site.asymptotes,
                None if base is None else base[0],
                getattr(each.module, "eps", 0.0),
                each.scale is not None,
            )
            tasks[row] = len(tasks), task
            values += x.numel()
        return tasks


def is_small(tensor: Tensor) -> bool:
    """Return whether a tensor is on a CPU, and so small that calling takes longer than measuring it."""
    if not tensor.is_cpu or not 0 < tensor.numel() <= _LARGEST or tensor.is_inference():
        return False
    return tensor.data_ptr() != 0  # of a wrapper (DTensor), which hides where its values are, it is 0


def _is_exact(gradient: Tensor, scale: Tensor, axis: int) -> bool:
    """Whether the kernels make and round gradient times gamma as torch does: per channel, in float32."""
    return (
        gradient.dtype is scale.dtype is torch.float32
        and scale.is_contiguous()
        and scale.numel() == gradient.shape[axis]
    )
