"""All that a user's loop touches: schedules, the recorder, and one-shot measurements."""

from ics.recording.one_shot import activation_stats, gradient_line, gradient_shift, sharpness
from ics.recording.one_shot_landscape import attribution, loss_slice
from ics.recording.recorder import Recorder
from ics.recording.schedule import Schedule, at, every, log_spaced, parse_schedule
from ics.recording.step import Step

__all__ = [
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
]
