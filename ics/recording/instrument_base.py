"""The base class of instruments: a value that says what it records and what it needs, and measures a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from ics.columns import Column, Table
from ics.errors import UsageError
from ics.recording.measuring.measured_step import MeasuredStep
from ics.recording.measuring.setup import Setup
from ics.recording.schedule import Schedule
from ics.records import Block
from ics.schema import STEP, TABLES

Need = Literal["layers", "passes", "update", "replay", "batch", "loss"]
NEEDS: Mapping[Need, frozenset[Need]] = {
    "layers": frozenset(),
    "passes": frozenset({"layers"}),
    "update": frozenset(),
    "replay": frozenset({"update"}),
    "batch": frozenset(),
    "loss": frozenset({"layers", "update", "replay", "batch"}),
}
"""What an instrument may need, and what else each need implies."""


class Instrument(ABC):
    """A quantity that a recorder measures on a schedule: subclass it to record one of your own.

    A subclass describes itself by class attributes and measures one step. Its options are its constructor's arguments;
    a frozen dataclass is the usual form. Pass an instance as a key of `Recorder(instruments={...})`.

    Attributes:
        name: its name in run.json, budgets and warnings; by default also the name of its table.
        table: the table that its rows go to. Its first key is `ics.schema.STEP`, which blocks leave out. The table of
            an instrument of your own is stored in run.json and opens with `ics.open_run` like any other.
        needs: what it needs from a step, any of

            - "layers": the model's layers in the order of execution;
            - "passes": it looks at training's own forward and backward pass (`attach`). Includes the layers;
            - "update": the parameters before and after the optimizer's step, and the gradients that it used;
            - "replay": the buffers and random state from before the step, so that a pass can be run again as it was;
            - "batch": the batch must be given to `Recorder.step`;
            - "loss": it evaluates `loss_fn` at other parameter values. Includes all but the passes.
        default: its schedule if the user gives none; None if it is off unless asked for.
        cost: position in the order in which due instruments are measured, the cheapest first: 0 for reductions of what
            training computed anyway, 1 for a few passes, 2 for up to a pass per layer, 3 for tens of passes.

    Example:
        >>> from dataclasses import dataclass
        >>> import ics
        >>> @dataclass(frozen=True)
        ... class WeightNorm(ics.Instrument):
        ...     power: float = 2.0
        ...     name = "weight_norm"
        ...     needs = frozenset({"layers"})
        ...     table = ics.Table(
        ...         "weight_norm",
        ...         row="step and layer",
        ...         keys=(ics.schema.STEP, ics.schema.LAYER),
        ...         values=(ics.Column("weight_norm", "float64", "lp norm of the layer's weight", "weight"),),
        ...     )
        ...     def measure(self, step):
        ...         weights = dict(step.model.named_parameters())
        ...         norms = [weights[layer.weight[0]].detach().norm(self.power) for layer in step.selected]
        ...         names = [layer.name for layer in step.selected]
        ...         yield ics.Block("weight_norm", {"layer": names, "weight_norm": norms})
    """

    name: str
    table: Table
    needs: frozenset[Need] = frozenset()
    default: ClassVar[Schedule | None] = None
    cost: ClassVar[int] = 0

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Return the names of its options: the fields of its dataclass."""
        return tuple(field.name for field in fields(cls) if field.init) if is_dataclass(cls) else ()

    @abstractmethod
    def measure(self, step: MeasuredStep) -> Iterable[Block]:
        """Return the rows of one step, as blocks of `table` whose values may still be tensors on the device.

        Called after the user's block, when everything is detached. It may raise: a recorder that is not `strict` warns
        once and switches this instrument off.
        """

    def attach(self, step: MeasuredStep) -> AbstractContextManager[object]:
        """Return a context around the user's block, for instruments that look at training's own passes.

        Register hooks on entry and remove them on exit. A hook must return None and leave tensors as they are.
        """
        return nullcontext()

    def begin(self, setup: Setup) -> Any:
        """Return what is kept from step to step, `step.kept[self.name]`; called once, when the recorder is created.

        Raises:
            UsageError: the user asked for something that cannot be measured.
        """
        return None

    def needs_batch(self, kept: Any) -> bool:
        """Return whether the next measured step must have its batch, given what `begin` returned."""
        return "batch" in all_needs(self)


def all_needs(instrument: Instrument) -> frozenset[Need]:
    """Return what an instrument needs, including what these needs imply."""
    return instrument.needs.union(*(NEEDS[need] for need in instrument.needs))


def check_instrument(instrument: Instrument) -> None:
    """Raise `UsageError` unless a user's instrument describes itself as `Instrument` requires."""
    kind = type(instrument).__name__
    name, table, needs = (getattr(instrument, each, None) for each in ("name", "table", "needs"))
    if not isinstance(name, str) or not name.isidentifier():
        raise UsageError(f"{kind} expects a name of letters, digits and _, got {name!r}; type name = 'weight_norm'")
    if not isinstance(table, Table):
        raise UsageError(f"{kind} expects a table, got {type(table).__name__}; type table = ics.Table(...)")
    if table.name in TABLES and table is not TABLES[table.name]:
        raise UsageError(f"{kind} expects a table of its own, got the name {table.name!r} of a built-in one; rename it")
    if not table.keys or table.keys[0] != STEP:
        raise UsageError(f"the table of {kind} expects ics.schema.STEP as its first key, got {list(table.keys)!r:.80}")
    unknown = set(needs or ()) - NEEDS.keys()
    if unknown:
        raise UsageError(f"{kind} needs {', '.join(sorted(map(str, unknown)))}, expected of: {', '.join(NEEDS)}")


def check_block(block: Block, table: Table) -> None:
    """Raise `ValueError` unless a block of a user's instrument fits its table.

    The writing thread would notice only when it is too late to switch the instrument off.
    """
    if not isinstance(block, Block) or block.table != table.name:
        shown = block.table if isinstance(block, Block) else type(block).__name__
        raise ValueError(f"expected blocks of the table {table.name}, got {shown!r}")
    for key in table.keys[1:]:
        if key.name not in block.columns:
            raise ValueError(f"expected the key {key.name} in every block of {table.name}, got {list(block.columns)}")
    for name, cells in block.columns.items():
        if name == STEP.name or name not in table.column_names:
            raise ValueError(f"expected the columns {list(table.measured_columns)} of {table.name}, got {name!r}")
        column = table.column(name)
        for cell in cells:
            if not (_fits(cell, column) or (cell is None and column not in table.keys)):
                shape = f" of shape {tuple(cell.shape)}" if isinstance(cell, Tensor | np.ndarray) else ""
                raise ValueError(f"{name} of {table.name} expects {column.dtype}, got a {type(cell).__name__}{shape}")


def _fits(cell: Any, column: Column) -> bool:
    if column.dtype == "string":
        return isinstance(cell, str)
    whole = "int64" in column.dtype
    if column.dtype.startswith("list"):
        if isinstance(cell, Tensor | np.ndarray):
            return cell.ndim == 1 and not _is_complex(cell) and not (whole and _is_fraction(cell))
        return isinstance(cell, Sequence) and all(isinstance(each, int if whole else int | float) for each in cell)
    if isinstance(cell, Tensor | np.ndarray):
        return cell.ndim == 0 and not _is_complex(cell) and not (whole and _is_fraction(cell))
    if column.dtype == "bool":
        return isinstance(cell, bool)
    return isinstance(cell, int if whole else int | float | np.floating) and not isinstance(cell, bool)


def _is_complex(cell: Tensor | np.ndarray) -> bool:
    return cell.is_complex() if isinstance(cell, Tensor) else cell.dtype.kind not in "iufb"


def _is_fraction(cell: Tensor | np.ndarray) -> bool:
    return cell.is_floating_point() if isinstance(cell, Tensor) else cell.dtype.kind == "f"
