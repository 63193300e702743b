"""What a plan says of each call of a module: which rows it gives, and what is done for them, worked out once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ics.probes.following.tracker import Site
from ics.probes.planned.batched_rows import BatchedRow, BatchLayout

Of = Literal["input", "output", "normalized"]


@dataclass(frozen=True, slots=True)
class CallRow:
    """One row that a call gives.

    Attributes:
        number: its number in the plan.
        of: the tensor it is of; "normalized" is the x-hat of a normalisation.
        ndim: axes of that tensor.
        graded: whether it has a gradient.
    """

    number: int
    of: Of
    ndim: int
    graded: bool


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module that gives rows.

    Attributes:
        module: the module that is called.
        rows: the rows it gives.
        made_by: number of the row whose tensor its input is; None if that of none.
        writes: how often the module writes to its input, which it then returns.
    """

    module: nn.Module
    rows: tuple[CallRow, ...]
    made_by: int | None
    writes: int


@dataclass(frozen=True, slots=True)
class RowAction:
    """What is done for one row.

    Attributes:
        row: the row.
        value: whether the values are measured.
        gradient: whether the gradient is.
        alike: whether it is of an input that is measured as the row that made it was, and unwritten.
        follows: whether its gradient has to be asked for; else it has none, or that of the row that made the input.
    """

    row: CallRow
    value: bool
    gradient: bool
    alike: bool
    follows: bool


@dataclass(frozen=True, slots=True)
class BatchedCall:
    """A call at which nothing is measured at once: each of its rows is measured with others, later.

    Attributes:
        rows: the rows that are measured with others.
        needed: number of the row of the input, where that must be among them.
        made: numbers of rows of the output, for calls to come.
        graded: for rows whose gradient is wanted: whether they are of the output, whether there is one, and its axes.
        follows_input: numbers of rows whose gradient is that of the input.
        follows_output: numbers of rows whose gradient is that of the output, and whether it is times gamma.
    """

    rows: tuple[BatchedRow, ...]
    needed: int | None
    made: tuple[int, ...]
    graded: tuple[tuple[bool, bool, int], ...]
    follows_input: tuple[int, ...]
    follows_output: tuple[tuple[int, bool], ...]


@dataclass(frozen=True, slots=True)
class PlanActions:
    """What is done at each call, and which rows have the statistics of others.

    Attributes:
        calls: of each call its actions.
        same_values: number of the row of an input to that of the row that made it.
        same_gradients: the same, of rows whose gradient is taken as that of the other.
    """

    calls: tuple[tuple[RowAction, ...], ...]
    same_values: Mapping[int, int]
    same_gradients: Mapping[int, int]


def actions_of(
    calls: Sequence[ModuleCall], sites: Sequence[Site], *, value: Sequence[bool], gradient: Sequence[bool]
) -> PlanActions:
    """Return what is done at each call, given of which rows the values and the gradients are measured."""
    same_values: dict[int, int] = {}
    same_gradients: dict[int, int] = {}
    found = []
    for call in calls:
        actions = []
        for row in call.rows:
            number, made_by = row.number, call.made_by
            # The same tensor, unwritten and read along the same axis, has the same statistics. The axis may differ:
            # a Linear reads the last axis of what a convolution returned as channels.
            alike = made_by is not None and not call.writes and _same_axis(sites, row, made_by)
            follows = gradient[number] and row.graded
            if alike and row.of == "input" and made_by is not None:
                if value[number]:
                    same_values[number] = made_by
                # dL/d(tensor) is one gradient, however many rows are of the tensor; one hook takes it for all.
                if gradient[number] and gradient[made_by]:
                    same_gradients[number], follows = made_by, False
            actions.append(RowAction(row, value[number], gradient[number], alike, follows))
        found.append(tuple(actions))
    return PlanActions(tuple(found), same_values, same_gradients)


def batched_call(call: ModuleCall, actions: Sequence[RowAction], batch: BatchLayout) -> BatchedCall | None:
    """Return the call as one at which nothing is measured at once; None if something is."""
    rows, needed = [], None
    for action in (action for action in actions if action.value):
        number, of = action.row.number, action.row.of
        if number not in batch.places:
            return None
        # Its statistics come from the row of the input, directly or as mean and variance, so that must be kept.
        if number not in batch.tasks or of == "normalized":
            needed = call.made_by
        if number in batch.tasks:
            module, made_by = (call.module, call.made_by) if of == "normalized" else (None, None)
            task, window = batch.tasks[number][1], batch.windows[number]
            rows.append(BatchedRow(number, of == "output", task, module, made_by, window))
    followed = [action.row for action in actions if action.follows]
    return BatchedCall(
        tuple(rows),
        needed,
        tuple(action.row.number for action in actions if action.row.of == "output"),
        tuple((action.row.of != "input", action.row.graded, action.row.ndim) for action in actions if action.gradient),
        tuple(row.number for row in followed if row.of == "input"),
        tuple((row.number, row.of == "normalized") for row in followed if row.of != "input"),
    )


def _same_axis(sites: Sequence[Site], row: CallRow, made_by: int) -> bool:
    return sites[made_by].axis % row.ndim == sites[row.number].axis % row.ndim
