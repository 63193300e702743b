"""One batch or a list of micro-batches: the guess, held against the gradient that training used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ics.errors import IcsError, UsageError
from ics.landscape import Objective
from ics.landscape.agreement import compare


@dataclass(frozen=True)
class Reading:
    """What a list was taken for.

    Attributes:
        accumulate: whether for micro-batches.
        why: in words, for the run's record.
        fits: whether the gradient is training's; None where there is none to compare with.
    """

    accumulate: bool
    why: str
    fits: bool | None


def choose_reading(
    objective_of: Callable[[bool], Objective],
    guess: bool,
    members: int,
    *,
    before: Mapping[str, Tensor],
    used: Mapping[str, Tensor | None],
) -> Reading:
    """Return the guess if it can be evaluated and its gradient is training's, else the other reading if that is so.

    Args:
        objective_of: makes the objective for a reading.
        guess: whether the list looks like micro-batches.
        members: of the list.
        before: W(t).
        used: the gradients that training used, as far as they are known.

    Cost: a forward-backward pass; two where the guess does not fit.

    Raises:
        IcsError: the loss fails on both readings; the message says what the list was taken for.
    """
    error, fits = _try(objective_of(guess), before, used)
    if error is None and fits is not False:
        found = "whose gradient is the one training used" if fits else "with no gradient of training to compare with"
        return Reading(guess, f"taken for {_named(guess, members)}, {found}", fits)
    other_error, other_fits = _try(objective_of(not guess), before, used)
    if other_error is None and (error is not None or other_fits):
        failed = "cannot be evaluated" if error is not None else "has another gradient than training"
        why = f"taken for {_named(not guess, members)}, as {_named(guess, members)} {failed}"
        return Reading(not guess, why, other_fits)
    if error is None:
        why = (
            f"taken for {_named(guess, members)}; type micro_batches={not guess} if it is {_named(not guess, members)}"
        )
        return Reading(guess, why, False)
    if isinstance(error, UsageError):
        raise error
    raise IcsError(
        f"loss_fn is expected to take the batch, got {type(error).__name__}: {error}; the batch was taken for "
        f"{_named(guess, members)}; type micro_batches={not guess} if it is {_named(not guess, members)}"
    ) from error


def _try(
    objective: Objective, before: Mapping[str, Tensor], used: Mapping[str, Tensor | None]
) -> tuple[Exception | None, bool | None]:
    """Return the error of an evaluation, and whether its gradient is training's; None where nothing can be said."""
    try:
        gradients = objective(before).gradients
    except Exception as error:  # of the user's loss on what is no batch of it: whatever it is
        return error, None
    if all(each is None for each in used.values()):
        return None, None
    verdict = compare(gradients, gradients, used).verdict
    return None, None if verdict == "undefined" else verdict != "different"


def _named(accumulate: bool, members: int) -> str:
    return f"{members} micro-batches" if accumulate else "one batch"
