"""Presets by cost: one word for which instruments to use, how often, and which of their columns.

| every n steps | light | standard | full |
|---|---|---|---|
| activations | 10, pooled | 10, pooled, histograms | 10, per channel, histograms |
| gradients | | 10, of parameters | 10, of parameters and every site |
| normalization | | 10 | 10 |
| gradient_shift, gradient_line | | 1000 | 100 |
| drift | | | 100 |
| curvature, attribution | | | 1000 |

A statistic of the pass costs a few per cent of the step at which it is taken. An instrument that evaluates the loss at
other parameters costs whole steps, so it runs up to a hundred times less often. `ics bench` measures the costs on your
machine and model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ics import schema
from ics.errors import unknown_name
from ics.recording.instrument_base import Instrument, all_needs
from ics.recording.instruments import INSTRUMENTS, Choosable, choose_instruments, make_instrument
from ics.recording.schedule import Schedule, every

Options = Mapping[str, Mapping[str, Any]]

_POOLED: Mapping[str, Any] = {"sites": schema.SITES, "per_channel": False}


@dataclass(frozen=True, slots=True)
class Preset:
    """Instruments with their schedules and options, and one sentence on what they record.

    Attributes:
        meaning: what is recorded.
        schedules: instrument to its schedule.
        options: keyword options by instrument, as `Recorder(options=...)` takes them.
    """

    meaning: str
    schedules: Mapping[str, Schedule]
    options: Options


@dataclass(frozen=True, slots=True)
class Choice:
    """What a recorder records.

    Attributes:
        instruments: name to instrument.
        schedules: name to schedule.
        preset: name of the preset it came from; None if the instruments were named.
        notes: sentences for the reader of the run.
    """

    instruments: Mapping[str, Instrument]
    schedules: Mapping[str, Schedule]
    preset: str | None = None
    notes: tuple[str, ...] = ()


_OFTEN = ("activations", "gradients", "normalization", "gradient_shift", "gradient_line", "drift")

PRESETS: Mapping[str, Preset] = {
    "light": Preset(
        "moments, extrema and counts of every site, pooled over its channels",
        {"activations": every(10)},
        {"activations": {**_POOLED, "histogram": False}},
    ),
    "standard": Preset(
        "pooled moments and histograms of every site, gradients of parameters, normalization; rarely the landscape",
        {
            "activations": every(10),
            "gradients": every(10),
            "normalization": every(10),
            "gradient_shift": every(1000),
            "gradient_line": every(1000),
        },
        {
            "activations": {**_POOLED, "histogram": True},
            "gradients": {"sites": (), "per_channel": False},
            "normalization": {"per_channel": False},
        },
    ),
    "full": Preset(
        "every site and its gradient, per channel and with histograms, and every other instrument",
        {
            "activations": every(10),
            "gradients": every(10),
            "normalization": every(10),
            "gradient_shift": every(100),
            "gradient_line": every(100),
            "drift": every(100),
            **{name: every(1000) for name in INSTRUMENTS if name not in _OFTEN},
        },
        {},
    ),
}


def choose(
    instruments: Choosable | str | None,
    options: Options | None,
    *,
    loss_fn: Callable[..., Any] | None,
) -> Choice:
    """Return what to record: from a preset, from instruments given by name or value, or by default.

    Without a `loss_fn`, a preset leaves out the instruments that need one and says so in a note.

    Raises:
        SelectionError: an unknown preset, instrument or option.
        UsageError: no schedule, or an instrument asked for by name that lacks its `loss_fn`.
    """
    given = options or {}
    if not isinstance(instruments, str):
        return Choice(*choose_instruments(instruments, given, loss_fn=loss_fn))
    preset = preset_named(instruments)
    merged = merged_options(preset.options, given)
    # Asked of instruments with their options, as needs may depend on these (gradients of sites need the passes).
    left_out = sorted(
        name
        for name in preset.schedules
        if loss_fn is None and "loss" in all_needs(make_instrument(name, merged.get(name, {})))
    )
    schedules = {name: when for name, when in preset.schedules.items() if name not in left_out}
    note = f"the preset {instruments} goes without {', '.join(left_out)}, which need a loss_fn"
    chosen = choose_instruments(schedules, merged, loss_fn=loss_fn)
    return Choice(*chosen, instruments, (note,) if left_out else ())


def preset_named(name: str) -> Preset:
    """Return the preset of this name.

    Raises:
        SelectionError: there is none; the message lists the presets.

    Example:
        >>> {name: str(when) for name, when in preset_named("light").schedules.items()}
        {'activations': 'every(10)'}
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]


def merged_options(first: Options, second: Options) -> dict[str, dict[str, Any]]:
    """Return options by instrument; `second` overrides `first`.

    Example:
        >>> merged_options({"activations": {"histogram": False}}, {"activations": {"sites": ("input",)}})
        {'activations': {'histogram': False, 'sites': ('input',)}}
    """
    names = [*first, *(name for name in second if name not in first)]
    return {name: {**first.get(name, {}), **second.get(name, {})} for name in names}
