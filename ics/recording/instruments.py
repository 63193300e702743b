"""The instruments a recorder can hold, what each needs, and the check of what the user chose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ics.errors import UsageError, unknown_name
from ics.recording.schedule import Schedule, as_schedule, every


@dataclass(frozen=True, slots=True)
class Instrument:
    """What an instrument needs, and the options it takes.

    Attributes:
        evaluates: whether it evaluates the loss elsewhere, for which it needs `loss_fn` and the batch.
        needs_step: whether it compares with W(t+1), for which the block must contain the optimizer's step.
        options: names of the keyword options that `Recorder(options={name: {...}})` passes on.
    """

    evaluates: bool = False
    needs_step: bool = False
    options: frozenset[str] = frozenset()


INSTRUMENTS: Mapping[str, Instrument] = {
    "activations": Instrument(options=frozenset({"sites", "histogram", "per_channel"})),
    "gradients": Instrument(options=frozenset({"sites", "histogram", "per_channel"})),
    "normalization": Instrument(options=frozenset({"per_channel"})),
    "gradient_shift": Instrument(
        evaluates=True, needs_step=True, options=frozenset({"linearised", "batched", "chunk"})
    ),
    "attribution": Instrument(evaluates=True, needs_step=True),
    "gradient_line": Instrument(evaluates=True, options=frozenset({"etas", "directions", "num_random", "layers"})),
    "curvature": Instrument(evaluates=True, options=frozenset({"num_eigenvalues", "tolerance", "max_products"})),
    "drift": Instrument(needs_step=True, options=frozenset({"probe_batch", "forward", "reference_step", "sites"})),
}

PROBES = frozenset({"activations", "gradients", "normalization"})

DEFAULTS: Mapping[str, Schedule] = {
    "activations": every(10),
    "gradients": every(10),
    "normalization": every(10),
    "gradient_shift": every(100),
    "gradient_line": every(100),
}


def choose_instruments(
    instruments: Mapping[str, Schedule | int | str] | None, *, loss_fn: Callable[..., Any] | None
) -> dict[str, Schedule]:
    """Return instrument name to schedule; without a choice, all of `DEFAULTS` that `loss_fn` allows.

    Raises:
        SelectionError: a name that is no instrument.
        UsageError: no schedule, or an instrument that evaluates the loss without a `loss_fn`.
    """
    if instruments is None:
        return {name: when for name, when in DEFAULTS.items() if loss_fn or not INSTRUMENTS[name].evaluates}
    for name in instruments:
        if name not in INSTRUMENTS:
            raise unknown_name("instrument", name, INSTRUMENTS)
        if INSTRUMENTS[name].evaluates and loss_fn is None:
            raise UsageError(
                f"{name} evaluates the loss at other parameter values and expects a loss_fn, got none; type "
                "Recorder(model, loss_fn, ...) with loss_fn(model, batch) returning the training loss"
            )
    return {name: as_schedule(when) for name, when in instruments.items()}


def check_options(options: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Return options by instrument; raises `SelectionError` for an instrument or option that does not exist."""
    for name, chosen in (options or {}).items():
        if name not in INSTRUMENTS:
            raise unknown_name("instrument", name, INSTRUMENTS)
        for option in chosen:
            if option not in INSTRUMENTS[name].options:
                raise unknown_name(f"option of {name}", option, INSTRUMENTS[name].options)
    return {name: dict(chosen) for name, chosen in (options or {}).items()}


def needs_batch(due: Iterable[str]) -> bool:
    """Return whether an instrument among `due` evaluates the loss."""
    return any(INSTRUMENTS[name].evaluates for name in due)
