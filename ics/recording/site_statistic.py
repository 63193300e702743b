"""A user's statistic as an instrument: one function of the tensor at each site."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ics import schema
from ics.columns import Column, DType, Table
from ics.errors import UsageError, unknown_name
from ics.probes.site_functions import SiteFunction, SiteFunctions
from ics.recording.instrument_base import Instrument, Need
from ics.recording.measuring.measured_step import MeasuredStep
from ics.recording.measuring.setup import Setup
from ics.recording.schedule import every
from ics.records import Block

FORWARD = Column("forward", "int64", "forward passes of the step before this one (gradient accumulation), from 0")


@dataclass
class _Kept:
    """What is kept: between steps, sites at which the function is known to only read; within a step, its results."""

    tried: set[tuple[str, str]] = field(default_factory=set)
    taken: SiteFunctions | None = None


@dataclass(frozen=True, eq=False)
class Statistic(Instrument):
    """The instrument that `statistic` returns, after checking its arguments."""

    name: str
    function: SiteFunction
    sites: tuple[str, ...]
    per_channel: bool
    table: Table
    needs = frozenset[Need]({"passes"})
    default = every(10)

    def begin(self, setup: Setup) -> _Kept:
        """Return what is kept from step to step."""
        return _Kept()

    @contextmanager
    def attach(self, step: MeasuredStep) -> Iterator[None]:
        """Follow training's passes and call the function at every site."""
        kept: _Kept = step.kept[self.name]
        kept.taken = SiteFunctions(
            step.model,
            self.function,
            per_channel=self.per_channel,
            sites=frozenset(self.sites),
            layers=step.setup.selection,
            tried=kept.tried,
        )
        kept.taken.watch.attach()
        try:
            yield
        finally:
            kept.taken.watch.detach()

    def measure(self, step: MeasuredStep) -> Iterable[Block]:
        """Return a row per site and forward pass."""
        kept: _Kept = step.kept[self.name]
        taken, kept.taken = kept.taken, None
        assert taken is not None, "attached before it is measured"
        if taken.watch.failure is not None:
            raise taken.watch.failure  # kept until now: raised in the hook, it would end the training
        rows = taken.rows
        if taken.watch.forward.note is not None:
            step.notes.append(taken.watch.forward.note)
        order = taken.layer_numbers(step.layers)
        cells: list[Tensor | None] = [row.value for row in rows]
        columns: dict[str, list[Any]] = {
            "layer": [row.site.layer for row in rows],
            "layer_index": [order[row.site.layer] for row in rows],
            "call": [row.site.call for row in rows],
            "site": [row.site.site for row in rows],
            "forward": [row.forward for row in rows],
            self.name: cells,
            "null_reason": [row.reason for row in rows],
        }
        return [Block(self.name, columns)]


def statistic(
    name: str,
    function: SiteFunction,
    *,
    sites: Sequence[str] | str = schema.SITES,
    unit: str = "1",
    meaning: str = "",
    per_channel: bool = False,
) -> Statistic:
    """A statistic of your own, computed at every site: pass it as a key of `Recorder(instruments={...})`.

    Its numbers go to a table called `name`, with a column of that name and one row per step, layer, call, site and
    forward pass. Table, unit and meaning are stored in run.json, so that `ics.open_run(...).table(name)` reads it.

    Args:
        name: name of the statistic, its table and its column: letters, digits and _.
        function: called with the tensor of a site, detached and in its own precision; returns a tensor of one number.
            It must only read the tensor. It should not wait for the device: return a tensor, do not call `.item()`.
            Random numbers that it draws from torch leave training's random state as it was.
        sites: one or several of `ics.schema.SITES`.
        unit: unit of the number; "value" for that of the tensor.
        meaning: one sentence for the schema.
        per_channel: call the function with the tensor as (values, channels); it returns (channels,), and the column
            holds a list.

    If the function raises, writes to the tensor, or returns another shape, the recorder warns once and switches it
    off; the training is not affected. Writing is detected on a copy of the tensor, the first time at each site.

    Cost: the function at every site, and some Python per module call, as the pass is followed in full.

    Raises:
        UsageError: a name that is taken or not an identifier, or something that cannot be called.
        SelectionError: an unknown site.

    Example:
        >>> import ics
        >>> ratio = ics.statistic(
        ...     "peak_over_rms", lambda x: x.abs().amax() / x.square().mean().sqrt(), sites="activation", unit="1"
        ... )
        >>> ratio.table.column("peak_over_rms").dtype
        'float64'
        >>> recorder = ics.Recorder(model, to="runs/mine-0", instruments={ratio: ics.every(10)})   # doctest: +SKIP
    """
    if not callable(function):
        raise UsageError(f"statistic expects a function, got {type(function).__name__}; type lambda x: x.abs().max()")
    if not isinstance(name, str) or not name.isidentifier() or name in _TAKEN:
        raise UsageError(
            f"statistic expects a name of letters, digits and _ that no table or key has, got {name!r}; "
            "type e.g. 'peak_over_rms'"
        )
    chosen = (sites,) if isinstance(sites, str) else tuple(sites)
    for site in chosen:
        if site not in schema.SITES:
            raise unknown_name("site", site, schema.SITES)
    dtype: DType = "list<float64>" if per_channel else "float64"
    value = Column(name, dtype, meaning or f"{name} of the tensor at the site, as its user defined it", unit)
    table = Table(name, "step, layer, call, site and forward pass", _KEYS, (value, schema.NULL_REASON))
    return Statistic(name, function, chosen, per_channel, table)


_KEYS = (schema.STEP, schema.LAYER, schema.LAYER_INDEX, schema.CALL, schema.SITE, FORWARD)
_TAKEN = {*schema.TABLES, *(key.name for key in _KEYS), schema.NULL_REASON.name, "run", "net", "seed"}
