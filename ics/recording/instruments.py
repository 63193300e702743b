"""The instruments that come with `ics`, and the check of what the user chose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ics import schema
from ics.errors import UsageError, unknown_name
from ics.landscape import (
    attribution,
    check_directions,
    checked_etas,
    curvature,
    default_etas,
    gradient_line,
    gradient_shift,
    passes_of,
)
from ics.probes import select_layers
from ics.recording.instrument_base import Instrument, Need, all_needs, check_block, check_instrument
from ics.recording.measuring.drift import SameBatchDrift
from ics.recording.measuring.measured_step import MeasuredStep
from ics.recording.measuring.setup import Setup, check_layers
from ics.recording.schedule import Schedule, as_schedule, every
from ics.records import Block, Layer

Choosable = Mapping[str | Instrument, Schedule | int | str] | Iterable[str | Instrument]

# Instruments are keys of mappings, and options may be lists or tensors, which cannot be hashed or compared: hence
# `eq=False`, by which an instrument equals only itself. `name`, `table` and the like have no annotation, so that the
# dataclass does not take them for options.


@dataclass(frozen=True, eq=False)
class Activations(Instrument):
    """Moments, extrema, counts and histograms of every site, in training's own pass.

    Attributes:
        sites: which sites, of `ics.schema.SITES`.
        histogram: whether to count histograms.
        per_channel: whether to keep the columns per channel; otherwise statistics are pooled over channels.
    """

    sites: Sequence[str] | str = schema.SITES
    histogram: bool = True
    per_channel: bool = True
    name = "activations"
    table = schema.ACTIVATIONS
    needs = frozenset[Need]({"passes"})
    default = every(10)

    def measure(self, step: MeasuredStep) -> Iterable[Block]:
        """Return the rows that the probes took in the pass."""
        return _of_the_pass(step, self.table)


@dataclass(frozen=True, eq=False)
class Gradients(Instrument):
    """Gradients of sites, in training's own pass, and of parameters, as the optimizer used them.

    Attributes:
        sites: whose gradients beside those of parameters, of `ics.schema.SITES`; none with `()`.
        histogram: whether to count histograms.
        per_channel: whether to keep the columns per channel.
    """

    sites: Sequence[str] | str = schema.SITES
    histogram: bool = True
    per_channel: bool = True
    name = "gradients"
    table = schema.GRADIENTS
    default = every(10)

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """The update, and the passes if sites are wanted."""
        return frozenset[Need]({"update", "passes"} if self.sites else {"update", "layers"})

    def measure(self, step: MeasuredStep) -> Iterable[Block]:
        """Return the rows of sites, then those of parameters."""
        return [*_of_the_pass(step, self.table), step.parameters.rows(step.layers)]


@dataclass(frozen=True, eq=False)
class NormalizationLayers(Instrument):
    """The effect of normalisations on the pass and its gradient: the terms of Theorem 4.1.

    Attributes:
        per_channel: whether to keep the columns per channel.
    """

    per_channel: bool = True
    name = "normalization"
    table = schema.NORMALIZATION
    needs = frozenset[Need]({"passes"})
    default = every(10)

    def measure(self, step: MeasuredStep) -> Iterable[Block]:
        """Return the rows that the probes took in the pass."""
        return _of_the_pass(step, self.table)


@dataclass(frozen=True, eq=False)
class GradientShift(Instrument):
    """Internal covariate shift of every layer; options and formula: `ics.gradient_shift`."""

    linearised: bool = False
    batched: bool = False
    chunk: int | None = None
    name = "gradient_shift"
    table = schema.GRADIENT_SHIFT
    needs = frozenset[Need]({"loss"})
    default = every(100)
    cost = 2

    def begin(self, setup: Setup) -> None:
        """Check the options."""
        passes_of(batched=self.batched, chunk=self.chunk)

    def measure(self, step: MeasuredStep) -> Iterable[Block]:
        """Return the rows of the selected layers."""
        if step.unmoved is not None:
            keys = {"parameters": list(schema.PARAMETERS)}
            return [_null_rows(self.table, step.selected, keys, reason=step.unmoved)]
        options: dict[str, Any] = {"linearised": self.linearised, "batched": self.batched, "chunk": self.chunk}
        return [gradient_shift(step.transition, layers=step.layers, selected=step.selected, **options)]


@dataclass(frozen=True, eq=False)
class Attribution(Instrument):
    """Which earlier layer's update moved a layer's gradient; formula: `ics.attribution`."""

    name = "attribution"
    table = schema.ATTRIBUTION
    needs = frozenset[Need]({"loss"})
    cost = 2

    def measure(self, step: MeasuredStep) -> Iterable[Block]:
        """Return the rows of the selected layers."""
        if step.unmoved is not None:
            keys: dict[str, list[Any]] = {
                "source_layer": [schema.REMAINDER],
                "source_index": [-1],
                "parameters": [schema.PARAMETERS[0]],
            }
            return [_null_rows(self.table, step.selected, keys, reason=step.unmoved)]
        return [attribution(step.transition, layers=step.layers, selected=step.selected)]


@dataclass(frozen=True, eq=False)
class GradientLine(Instrument):
    """Loss and gradient along a line from W(t); formula: `ics.gradient_line`.

    Attributes:
        etas: step sizes; default 8 from 1/2 to 4 times the learning rate.
        directions: of "gradient", "update" and "random".
        num_random: how many random directions.
        layers: layers to move one at a time besides the whole net; default none.
    """

    etas: Sequence[float] | None = None
    directions: Sequence[str] = ("gradient",)
    num_random: int = 1
    layers: Any = None
    name = "gradient_line"
    table = schema.GRADIENT_LINE
    needs = frozenset[Need]({"loss"})
    default = every(100)
    cost = 2

    def begin(self, setup: Setup) -> None:
        """Check the options."""
        checked_etas(self.etas or ())
        check_directions(self.directions)
        check_layers(setup.model, self.layers)

    def measure(self, step: MeasuredStep) -> Iterable[Block]:
        """Return the rows of the whole net, then those of the layers that are moved alone."""
        etas = self.etas or default_etas(step.learning_rate)
        alone = () if self.layers is None else select_layers(step.layers, self.layers)
        options: dict[str, Any] = {"directions": self.directions, "num_random": self.num_random, "layers": alone}
        return [gradient_line(step.transition, etas=etas, **options)]


@dataclass(frozen=True, eq=False)
class Curvature(Instrument):
    """Largest Hessian eigenvalues and batch sharpness; options and formula: `ics.sharpness`."""

    num_eigenvalues: int = 1
    tolerance: float = 1e-3
    max_products: int = 200
    name = "curvature"
    table = schema.CURVATURE
    needs = frozenset[Need]({"loss"})
    cost = 3

    def measure(self, step: MeasuredStep) -> Iterable[Block]:
        """Return the row of the step."""
        if odd := [name for name, value in step.before.items() if value.is_complex()]:
            raise UsageError(f"curvature expects real parameters, got the complex {odd[0]}; leave it out")
        options: dict[str, Any] = {"tolerance": self.tolerance, "max_products": self.max_products}
        return [curvature(step.transition, num_eigenvalues=self.num_eigenvalues, **options)]


@dataclass(frozen=True, eq=False)
class Drift(Instrument):
    """How far one fixed batch's distributions moved with each update; see `SameBatchDrift` for options and formula."""

    probe_batch: Any = None
    forward: Callable[..., object] | None = None
    reference_step: int | None = None
    sites: Sequence[str] | str = schema.SITES
    name = "drift"
    table = schema.DRIFT
    needs = frozenset[Need]({"replay"})
    cost = 3

    def begin(self, setup: Setup) -> SameBatchDrift:
        """Return the object that measures the drift, with a copy of the probe batch as it is now."""
        return SameBatchDrift(
            setup.model,
            loss_fn=setup.loss_fn,
            selection=setup.selection,
            grouping=setup.grouping,
            probe_batch=self.probe_batch,
            forward=self.forward,
            reference_step=self.reference_step,
            sites=self.sites,
        )

    def needs_batch(self, kept: SameBatchDrift) -> bool:
        """Return whether the batch of the next measured step becomes the probe batch."""
        return kept.needs_batch

    def measure(self, step: MeasuredStep) -> Iterable[Block]:
        """Return the rows of the probe batch before and after this update, and against the reference step."""
        return [step.kept[self.name].measure(step, unmoved=step.unmoved)]


INSTRUMENTS: Mapping[str, type[Instrument]] = {
    str(kind.name): kind
    for kind in (
        Activations,
        Gradients,
        NormalizationLayers,
        GradientShift,
        Attribution,
        GradientLine,
        Curvature,
        Drift,
    )
}
"""Every built-in instrument by name."""


def make_instrument(name: str, options: Mapping[str, Any]) -> Instrument:
    """Return the built-in instrument of this name.

    Raises:
        SelectionError: an unknown instrument or option.
    """
    if name not in INSTRUMENTS:
        raise unknown_name("instrument", name, INSTRUMENTS)
    kind = INSTRUMENTS[name]
    for option in options:
        if option not in kind.options():
            raise unknown_name(f"option of {name}", option, kind.options())
    return kind(**options)


def check_options(options: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `SelectionError` for an instrument or option that does not exist."""
    for name, chosen in options.items():
        make_instrument(name, chosen)


def choose_instruments(
    instruments: Choosable | None,
    options: Mapping[str, Mapping[str, Any]],
    *,
    loss_fn: Callable[..., Any] | None,
) -> tuple[dict[str, Instrument], dict[str, Schedule]]:
    """Return instruments and their schedules by name; without a choice, all defaults that `loss_fn` allows.

    Args:
        instruments: names or instruments, each with its schedule; or a list of them, each with its default schedule.
        options: options of built-in instruments by name.
        loss_fn: the recorder's.

    Raises:
        SelectionError: an unknown instrument, or an option that it does not take.
        UsageError: no schedule, two instruments of one name, or one that evaluates the loss without a `loss_fn`.
    """
    check_options(options)
    if instruments is None:
        instruments = {
            name: kind.default
            for name, kind in INSTRUMENTS.items()
            if kind.default is not None and (loss_fn or not _evaluates(make_instrument(name, {})))
        }
    found: dict[str, Instrument] = {}
    schedules: dict[str, Schedule] = {}
    for each, when in _with_schedules(instruments):
        instrument = make_instrument(each, options.get(each, {})) if isinstance(each, str) else each
        check_instrument(instrument)
        if instrument.name in found:
            raise UsageError(f"expected each instrument once, got two called {instrument.name!r}; rename one")
        if _evaluates(instrument) and loss_fn is None:
            raise UsageError(
                f"{instrument.name} evaluates the loss at other parameter values and expects a loss_fn, got none; type "
                "Recorder(model, loss_fn, ...) with loss_fn(model, batch) returning the training loss"
            )
        found[instrument.name], schedules[instrument.name] = instrument, as_schedule(when)
    return found, schedules


def default_options(instruments: Mapping[str, Instrument]) -> dict[str, dict[str, Any]]:
    """Return the options of the instruments that are measured together in training's passes, chosen or not."""
    # Of those that were not chosen too: the probes take the options of all three in one call.
    shared = [instruments.get(name) or INSTRUMENTS[name]() for name in ("activations", "gradients", "normalization")]
    return {each.name: {name: getattr(each, name) for name in each.options()} for each in shared}


def _with_schedules(instruments: Choosable) -> list[tuple[str | Instrument, Any]]:
    named = isinstance(instruments, Mapping)
    pairs = list(instruments.items()) if isinstance(instruments, Mapping) else [(each, None) for each in instruments]
    for each, _ in pairs:
        if not isinstance(each, str | Instrument):
            raise UsageError(
                f"expected the name of an instrument or an ics.Instrument, got {type(each).__name__}; "
                'type instruments={"activations": ics.every(10)}'
            )
    if named:
        return pairs
    kinds = [make_instrument(each, {}) if isinstance(each, str) else each for each, _ in pairs]
    return [(each, kind.default or every(100)) for (each, _), kind in zip(pairs, kinds, strict=True)]


def _evaluates(instrument: Instrument) -> bool:
    return "loss" in all_needs(instrument)


def _of_the_pass(step: MeasuredStep, table: schema.Table) -> list[Block]:
    return [block for block in step.pass_rows if block.table == table.name]


def _null_rows(table: schema.Table, layers: Sequence[Layer], keys: Mapping[str, list[Any]], *, reason: str) -> Block:
    """Return a row of nulls for every layer and place in `keys`, with the reason."""
    times = len(next(iter(keys.values())))
    rows = [(layer, place) for layer in layers for place in range(times)]
    columns: dict[str, list[Any]] = {name: [None] * len(rows) for name in table.measured_columns}
    columns |= {"layer": [layer.name for layer, _ in rows], "layer_index": [layer.index for layer, _ in rows]}
    columns |= {name: [cells[place] for _, place in rows] for name, cells in keys.items()}
    return Block(table.name, columns | {"null_reason": [reason] * len(rows)})


def is_built_in(instrument: Instrument) -> bool:
    """Return whether an instrument came with `ics`."""
    return INSTRUMENTS.get(instrument.name) is type(instrument)


def measurements(
    instruments: Mapping[str, Instrument], measured: MeasuredStep
) -> Iterator[tuple[frozenset[str], Callable[[], list[Block]]]]:
    """Yield what is due, the cheapest first: the instruments that a measurement serves, and the measurement."""
    together = frozenset(name for name in measured.due if name in measured.setup.in_the_pass)
    if together:  # first and by itself, so that those whom it serves share its cost

        def lay_out_pass_rows() -> list[Block]:
            _ = measured.pass_rows
            return []

        yield together, lay_out_pass_rows
    places = {name: (instruments[name].cost, place) for place, name in enumerate(instruments)}
    for name in sorted(measured.due, key=places.__getitem__):
        yield frozenset({name}), partial(_blocks, instruments[name], measured)


def _blocks(instrument: Instrument, measured: MeasuredStep) -> list[Block]:
    blocks = list(instrument.measure(measured))
    if not is_built_in(instrument):
        for block in blocks:
            check_block(block, instrument.table)
    return blocks
