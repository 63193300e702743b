"""What a plan says of each call of a module: which rows it gives, and what is done of them, worked out once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ics.probes.following.tracker import Site
from ics.probes.planned.batched_rows import Deferral, Wait

Of = Literal["input", "output", "normalized"]


@dataclass(frozen=True, slots=True)
class Look:
    """One row that a visit gives.

    Attributes:
        row: its number.
        of: the tensor it is of.
        ndim: axes of that tensor.
        graded: whether it has a gradient.
    """

    row: int
    of: Of
    ndim: int
    graded: bool


@dataclass(frozen=True, slots=True)
class Visit:
    """One call of a module that gives rows.

    Attributes:
        module: the module that was called.
        looks: the rows it gives.
        made_by: the row whose tensor its input is; None if that of none.
        writes: how often the module writes to its input, which it then returns.
    """

    module: nn.Module
    looks: tuple[Look, ...]
    made_by: int | None
    writes: int


@dataclass(frozen=True, slots=True)
class Order:
    """What is done of one look, worked out once.

    Attributes:
        look: the look.
        value: whether the values are measured.
        gradient: whether the gradient is.
        alike: whether it is of an input that is measured as the row that made it was, and unwritten.
        follows: whether its gradient has to be asked for; else it has none, or that of the row that made the input.
    """

    look: Look
    value: bool
    gradient: bool
    alike: bool
    follows: bool


@dataclass(frozen=True, slots=True)
class Quick:
    """A visit at which nothing is measured at once.

    Attributes:
        waits: the rows that wait for the end of the pass.
        needed: the row of the input, where that must wait too.
        made: rows of the output, for visits to come.
        graded: for rows whose gradient is wanted: whether they are of the output, whether there is one, and its axes.
        follows_input: rows whose gradient is that of the input.
        follows_output: rows whose gradient is that of the output, and whether it is times gamma.
    """

    waits: tuple[Wait, ...]
    needed: int | None
    made: tuple[int, ...]
    graded: tuple[tuple[bool, bool, int], ...]
    follows_input: tuple[int, ...]
    follows_output: tuple[tuple[int, bool], ...]


@dataclass(frozen=True, slots=True)
class Orders:
    """What is done of each visit, and which rows are measured as others are.

    Attributes:
        visits: of each visit its orders.
        values: row of an input to the row that made it.
        gradients: the same, of rows whose gradient is taken as that of the other.
    """

    visits: tuple[tuple[Order, ...], ...]
    values: Mapping[int, int]
    gradients: Mapping[int, int]


def orders_of(
    visits: Sequence[Visit], sites: Sequence[Site], *, value: Sequence[bool], gradient: Sequence[bool]
) -> Orders:
    """Return what is done at each visit, given of which rows the values and the gradients are measured."""
    values: dict[int, int] = {}
    gradients: dict[int, int] = {}
    found = []
    for visit in visits:
        orders = []
        for look in visit.looks:
            row, made_by = look.row, visit.made_by
            alike = made_by is not None and not visit.writes and _same_axis(sites, look, made_by)
            follows = gradient[row] and look.graded
            if alike and look.of == "input" and made_by is not None:
                if value[row]:
                    values[row] = made_by
                if gradient[row] and gradient[made_by]:
                    gradients[row], follows = made_by, False
            orders.append(Order(look, value[row], gradient[row], alike, follows))
        found.append(tuple(orders))
    return Orders(tuple(found), values, gradients)


def quick_visit(visit: Visit, orders: Sequence[Order], deferral: Deferral) -> Quick | None:
    """Return the visit as one at which nothing is measured at once; None if it is not one."""
    waits, needed = [], None
    for order in (order for order in orders if order.value):
        row, of = order.look.row, order.look.of
        if row not in deferral.places:
            return None
        if row not in deferral.tasks or of == "normalized":
            needed = visit.made_by
        if row in deferral.tasks:
            x_hat = of == "normalized"
            module, made_by = (visit.module, visit.made_by) if x_hat else (None, None)
            waits.append(Wait(row, of == "output", deferral.tasks[row][1], module, made_by))
    return Quick(
        tuple(waits),
        needed,
        tuple(order.look.row for order in orders if order.look.of == "output"),
        tuple((order.look.of != "input", order.look.graded, order.look.ndim) for order in orders if order.gradient),
        tuple(order.look.row for order in orders if order.follows and order.look.of == "input"),
        tuple(
            (order.look.row, order.look.of == "normalized")
            for order in orders
            if order.follows and order.look.of != "input"
        ),
    )


def _same_axis(sites: Sequence[Site], look: Look, made_by: int) -> bool:
    return sites[made_by].axis % look.ndim == sites[look.row].axis % look.ndim
