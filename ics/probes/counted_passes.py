"""Which passes of a step count: those that made the gradients which the optimizer will use.

Forward: a loop may evaluate the model inside the block, as it is, averaged, or as a target for itself. Of the modes in
which the model ran the best counts: with a graph before without, train mode before eval mode. So an evaluation does not
mix with training, while a model that is trained in eval mode, or is only evaluated, is measured.

Backward: a loss may run a backward pass inside itself (a gradient penalty), and a loop may ask for gradients of its own
(an adversarial example, a gradient per task). dL/d(site) is what the backward pass brings that fills `.grad` of the
trained parameters, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

_OTHER, _HIGHER, _BY_HAND, _FILLS = range(4)

NOT_REACHED = "no backward pass reached it while the probes were armed"
ONLY_OTHERS = (
    "no backward pass filled .grad of a trained parameter of the model (autograd.grad was asked for something else, or "
    "the weights are not its own), so which gradients are of the trained loss is not known"
)
_SEVERAL = (
    "several calls of autograd.grad asked for gradients of parameters and no backward pass filled .grad, so which of "
    "them is trained is not known"
)
TWICE = (
    "several backward passes went through one forward pass (retain_graph=True); the gradient is their sum, which no "
    "hook sees"
)
NOTE = (
    "backward passes that fill no .grad of a trained parameter (autograd.grad inside the loss, as for a gradient "
    "penalty) were seen; dL/d(site) is without them"
)


NO_GRAPH, EVALUATION, TRAINING = range(3)
"""The modes of a forward pass, the better the higher."""

OTHER_MODES = (
    "forward passes in eval mode or without a graph ran in the block beside those of the training, as an evaluation "
    "or a target does; they do not count"
)
MIXED_PARTS = (
    "this part of the model ran without a graph or in eval mode, in passes of the training and in others, and which "
    "of its values are the training's is not known"
)


def mode_of(module: nn.Module, *, graph: bool) -> int:
    """Return the mode of a pass that a module begins."""
    if not graph:
        return NO_GRAPH
    return TRAINING if module.training else EVALUATION


class ForwardPasses:
    """The forward passes of a step.

    Attributes:
        mode: of the part of a pass that runs, or ran last.
        best: the best of all modes, which counts; -1 before the first pass.
        modes: of all passes so far; that of a pass is the best of its parts'.
        continued: modes of parts that a part in a better mode followed, within one pass.
        roots: the module that began the first pass in each mode.
    """

    def __init__(self) -> None:
        self.mode = NO_GRAPH
        self.best = -1
        self.continued: set[int] = set()
        self.roots: dict[int, nn.Module] = {}
        self._ended: set[int] = set()
        self._pass = -1

    @property
    def modes(self) -> set[int]:
        """The modes of all passes so far."""
        return self._ended | ({self._pass} if self._pass >= 0 else set())

    def begin(self, module: nn.Module, mode: int) -> None:
        """A pass begins."""
        self._ended = self.modes
        self.mode = self._pass = mode
        self.best = max(self.best, mode)
        self.roots.setdefault(mode, module)

    def goes_on(self, mode: int) -> bool:
        """Return whether a part of the model that runs now goes on with the pass; one in a worse mode does not."""
        if mode < self._pass:
            return False
        if mode > self._pass:
            self.continued.add(self._pass)
        self.mode = self._pass = mode
        self.best = max(self.best, mode)
        return True

    def pass_over(self, mode: int) -> None:
        """Note a pass that is not measured."""
        self._ended.add(mode)

    def give_up(self) -> None:
        """Go on as if there had been no pass so far, other than to be passed over."""
        self._ended, self._pass, self.best = self.modes, -1, -1

    @property
    def note(self) -> str | None:
        """What is to be said of the step, if anything is."""
        return OTHER_MODES if any(mode < self.best for mode in self.modes) else None


@dataclass(frozen=True)
class PassStart:
    """How a planned pass begins.

    Attributes:
        root: the module that begins it.
        mode: its mode.
        hides_graph: whether the first planned call runs without a graph though the pass has one.
    """

    root: nn.Module
    mode: int
    hides_graph: bool

    def mode_now(self) -> int:
        """Return the mode of a pass whose first planned call has just been made."""
        return mode_of(self.root, graph=torch.is_grad_enabled() or self.hides_graph)


class BackwardPasses:
    """Tells of the backward pass that is running whether it counts.

    The passes that fill `.grad` of a trained parameter count. Where none does, a single `autograd.grad` for parameters
    does: a loop may hand gradients on by itself. A better pass than those so far makes them void.

    Args:
        parameters: returns those of the model.
    """

    def __init__(self, parameters: Callable[[], Iterable[Tensor]]) -> None:
        self._parameters = parameters
        self._kinds: dict[int, int] = {}
        self._best = _OTHER
        self._on_better: list[Callable[[], None]] = []
        self.ran_without_graph = False
        self.counting = -1  # the pass that was last found to count

    def on_better(self, forget: Callable[[], None]) -> None:
        """Call `forget` when what was measured of earlier backward passes turns out not to count."""
        self._on_better.append(forget)

    def counts(self, *, recomputed: bool = False) -> bool:
        """Return whether the running backward pass counts, as far as is known; asked within a gradient's hook.

        Args:
            recomputed: whether it is the pass of a checkpointed segment, inside that of the loss.
        """
        task = torch._C._current_graph_task_id()
        if task == self.counting:
            return True
        kind = self._kinds.get(task)
        if kind is None:
            kind = self._kinds[task] = _FILLS if recomputed else self._kind()
            if kind > self._best:
                self._best, self.counting = kind, -1
                for forget in self._on_better:
                    forget()
        if kind != self._best or kind == _OTHER:
            return False
        self.counting = task
        return True

    @property
    def reason(self) -> str | None:
        """Why no gradient of the step is known; None if they are, or if there was none."""
        if self._kinds and self._best == _OTHER:
            return ONLY_OTHERS
        alike = sum(kind == self._best for kind in self._kinds.values())
        return _SEVERAL if alike > 1 and self._best != _FILLS else None

    @property
    def note(self) -> str | None:
        """What is to be said of the step, if anything is."""
        return NOTE if any(kind != self._best for kind in self._kinds.values()) else self.reason

    def _kind(self) -> int:
        """Return what the running backward pass does for the parameters."""
        higher = torch.is_grad_enabled()  # within a hook: whether the pass makes a graph of itself
        # The parameters are inside checkpointed segments, or nowhere; those passes fill what is not seen from here.
        hidden = _OTHER if higher else _FILLS
        any_trained = False
        with torch._C.DisableTorchFunction():  # function modes, the user's among them, need not see it
            for parameter in self._parameters():
                if not parameter.requires_grad:
                    continue
                any_trained = True
                try:
                    if torch._C._will_engine_execute_node(get_gradient_edge(parameter).node):
                        return _FILLS
                except RuntimeError:  # how torch says that autograd.grad was asked for the gradient of this very leaf
                    return _HIGHER if higher else _BY_HAND
        return hidden if self.ran_without_graph or not any_trained else _OTHER


class CountedGradients:
    """The hooks of one table of gradients: each takes the gradient of a tensor from the passes that count.

    Args:
        passes: tells which count.
        forget: forgets what was taken.
    """

    def __init__(self, passes: BackwardPasses, forget: Callable[[], None]) -> None:
        self.passes = passes
        self.spoiled: list[Any] = []
        self.number = count().__next__
        self._forget = forget
        self._taken: set[int] = set()
        self._since = 0
        passes.on_better(self._restart)

    def takes(self, number: int, rows: Any, *, recomputed: bool = False) -> bool:
        """Return whether the gradient that has come is to be taken; if it is the second, its rows are spoiled.

        Args:
            number: of the hook, from `number()`.
            rows: what is added to `spoiled` then.
            recomputed: as for `BackwardPasses.counts`.
        """
        if number < self._since:
            return False
        if torch._C._current_graph_task_id() != self.passes.counting and not self.passes.counts(recomputed=recomputed):
            return False
        if number in self._taken:
            self.spoiled.append(rows)
            return False
        self._taken.add(number)
        return True

    def void(self) -> None:
        """Take nothing from the hooks so far: their forward passes do not count."""
        self._since = self.number()
        self.spoiled.clear()
        self._taken.clear()

    def _restart(self) -> None:
        self.spoiled.clear()
        self._taken.clear()
        self._forget()
