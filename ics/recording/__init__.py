"""All that a user's loop touches: schedules, the recorder, instruments, and one-shot measurements."""

from ics.recording.instrument_base import Instrument
from ics.recording.one_shot import activation_stats, attribution, gradient_line, gradient_shift, loss_slice, sharpness
from ics.recording.recorder import Recorder
from ics.recording.schedule import Schedule, at, every, log_spaced, parse_schedule
from ics.recording.site_statistic import statistic
from ics.recording.step import Step

__all__ = [
    "Instrument",
    "Recorder",
    "Schedule",
    "Step",
    "activation_stats",
    "at",
    "attribution",
    "every",
    "gradient_line",
    "gradient_shift",
    "log_spaced",
    "loss_slice",
    "parse_schedule",
    "sharpness",
    "statistic",
]
