"""The optimizers whose steps are measured: which they are, which parameters are whose, and when they have stepped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed
from torch import nn

from ics.errors import UsageError

Optimizers = tuple[torch.optim.Optimizer, ...]

NOT_STEPPED = "the optimizer did not step"
_NOT_OWNED = "no optimizer that was given holds this parameter"
_FROZEN = "the parameter is frozen: it needs no gradient"
_NOT_LEFT = "no optimizer was given, and the loop left no gradient in .grad"
_WITHIN = ("optimizer", "base_optimizer")  # accelerate's and Lightning's wrappers; SAM and other two-pass optimizers


def as_optimizers(given: Any) -> Optimizers:
    """Return the optimizers whose `step` changes the parameters, taken out of wrappers.

    A two-pass optimizer (SAM) and wrappers of frameworks hold the optimizer that takes the step: its gradients are
    the ones used. Given either, the inner one is followed.

    Raises:
        UsageError: something that is no optimizer; the sentence says what to type.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> [type(each).__name__ for each in as_optimizers([torch.optim.SGD([weight], lr=0.1)])]
        ['SGD']
    """
    if given is None:
        return ()
    several = list(given) if isinstance(given, Iterable) and not isinstance(given, str | Mapping) else [given]
    if not several:
        raise UsageError(
            "optimizer expects an optimizer or a list of them, got an empty list; type optimizer=optimizer"
        )
    found = [_innermost(each) for each in several]
    return tuple(dict.fromkeys(found))


def _innermost(given: Any) -> torch.optim.Optimizer:
    wrapper, seen = given, set()
    while id(wrapper) not in seen:
        seen.add(id(wrapper))
        inner = next((getattr(wrapper, name) for name in _WITHIN if hasattr(wrapper, name)), None)
        # A learning rate scheduler holds an optimizer too, and clears no gradients.
        if not (hasattr(wrapper, "zero_grad") and hasattr(inner, "zero_grad")):
            break
        wrapper = inner
    if not isinstance(wrapper, torch.optim.Optimizer):
        raise UsageError(
            "optimizer expects the torch.optim.Optimizer that steps inside the block, or a list of such, got "
            f"{type(given).__name__}; type optimizer=optimizer"
        )
    return wrapper


class OptimizerSteps:
    """The optimizer steps inside one block.

    The gradients of the first step of each optimizer count: they are those at W(t).

    Args:
        optimizers: the optimizers that were given.
        named: the parameters of the model by name.

    Attributes:
        counts: how often each optimizer has stepped so far.
    """

    def __init__(self, optimizers: Optimizers, named: Mapping[str, nn.Parameter]) -> None:
        self.optimizers = optimizers
        self.counts: Counter[torch.optim.Optimizer] = Counter()
        self._named = named
        self._owners: dict[str, torch.optim.Optimizer] | None = None

    def take(self, optimizer: torch.optim.Optimizer) -> Sequence[str]:
        """Take note that an optimizer steps; return the parameters whose gradients count now."""
        self.counts[optimizer] += 1
        if self.counts[optimizer] > 1:
            return ()
        owners = self.owners
        return [name for name in self._named if owners.get(name) is optimizer]

    @property
    def owners(self) -> Mapping[str, torch.optim.Optimizer]:
        """Which optimizer holds a parameter; the first, where several do."""
        if self._owners is None:
            held: dict[int, torch.optim.Optimizer] = {}
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    for parameter in group["params"]:
                        held.setdefault(id(parameter), optimizer)
            names = self._named.items()
            self._owners = {name: held[id(parameter)] for name, parameter in names if id(parameter) in held}
        return self._owners

    @property
    def stepped(self) -> bool:
        """Whether any optimizer has stepped; True where none was given, as nothing is known then."""
        return not self.optimizers or bool(self.counts)

    @property
    def most(self) -> int:
        """How often the optimizer that stepped most has stepped."""
        return max(self.counts.values(), default=0)

    def reason(self, name: str, nothing: str) -> str:
        """Return why a parameter has no gradient; `nothing` where none reached its optimizer."""
        if not self._named[name].requires_grad:
            return _FROZEN
        if not self.optimizers:
            return _NOT_LEFT
        owner = self.owners.get(name)
        if owner is None:
            return _NOT_OWNED
        return nothing if self.counts[owner] else NOT_STEPPED


def learning_rate(optimizers: Optimizers) -> float | None:
    """Return the learning rate of the first parameter group; None without an optimizer."""
    if not optimizers:
        return None
    return float(optimizers[0].param_groups[0]["lr"])


def steps_note(steps: OptimizerSteps, *, number: int, unmoved: str | None) -> tuple[str, str] | None:
    """Return what a reader must know about the steps in a block, as (kind, sentence); None for a block with one step.

    Args:
        steps: the steps that were seen.
        number: of the block.
        unmoved: why there is no update to speak of, if there is none.
    """
    if unmoved is not None:
        return "unmoved", f"{unmoved} at step {number}: what compares parameters before and after is null there"
    if steps.most > 1:
        return "several", (
            f"the optimizer stepped {steps.most} times in the block of step {number}: gradients are those of its first "
            "step, the update is that of all; type recorder.step around each step"
        )
    if not steps.stepped:
        return "others", (
            f"the parameters changed in the block of step {number}, and not by the optimizer that was given: its "
            "gradients are null; pass the optimizer that steps, or a list of all of them"
        )
    return None


def situation(steps: OptimizerSteps, given: Any) -> str | None:
    """Return what in the loop may explain that training used another gradient than that of the loss; None if nothing.

    Args:
        steps: the steps in the block.
        given: the optimizers as they were handed in.
    """
    several = given if isinstance(given, list | tuple) else [given]
    if any(hasattr(each, "base_optimizer") for each in several) or any(
        "SAM" in type(each).__name__ for each in (*several, *steps.optimizers)
    ):
        return "a two-pass optimizer (SAM) steps with the gradient at other parameters than W(t)"
    if steps.most > 1:
        return "the optimizer stepped more than once in the block"
    ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
    if ranks and torch.distributed.get_world_size() > 1:
        return "training uses the mean over several processes, loss_fn the batch of this one"
    return None
