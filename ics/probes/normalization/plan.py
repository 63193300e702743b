"""What a followed step shows of its normalisations, so that later ones are measured without following every call."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ics.probes.counted_passes import NO_GRAPH, ForwardPasses, PassStart
from ics.probes.following.recompute import in_backward
from ics.probes.following.tracker import Normalization
from ics.probes.hooks import Hooks
from ics.probes.normalization.rows import is_torch_backward
from ics.probes.normalization.terms import is_plain_batchnorm, uses_batch_statistics
from ics.probes.structure.grouping import Grouping
from ics.probes.structure.modules import role_of
from ics.probes.structure.tensors import TensorMap, first_tensor
from ics.records import Layer


@dataclass(frozen=True, slots=True)
class Traits:
    """What decides how a call of a normalisation is measured; another step's call must have the same.

    Attributes:
        graded: whether its output has a gradient.
        by_node: whether a backward node of torch's normalisation made the output.
        plain: whether it is torch's BatchNorm.
        by_batch: whether that normalises by the statistics of the batch.
    """

    graded: bool
    by_node: bool
    plain: bool
    by_batch: bool


@dataclass(frozen=True, slots=True)
class NormalizationCall:
    """One call of a normalisation in a pass."""

    normalization: Normalization
    traits: Traits


@dataclass(frozen=True)
class NormalizationPlan:
    """What a followed step shows of its normalisations.

    Attributes:
        calls: the calls that give rows, in their order; every pass of a step repeats them.
        order: layers to their order.
        layers: the layers, by grouping.
        start: how a pass begins; None where it has no normalisation.
        constants: m and eps of each channel, which would be copied to a GPU at every step; made once.
    """

    calls: tuple[NormalizationCall, ...]
    order: Mapping[str, int]
    layers: Mapping[Grouping, tuple[Layer, ...]]
    start: PassStart | None
    constants: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def constants_of(
        self, values: Sequence[tuple[int, float]], sizes: Sequence[int], like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return m and eps of each channel, given those of each call and its number of channels."""
        key = (*values, *sizes, like.device)
        if key not in self.constants:
            self.constants.clear()
            table = torch.tensor(values, dtype=like.dtype).repeat_interleave(torch.tensor(sizes), 0).to(like.device)
            self.constants[key] = table[:, 0], table[:, 1]
        return self.constants[key]


class _ObservedCall(NamedTuple):
    """A call of a normalisation.

    Attributes:
        module: the normalisation.
        traits: its traits; None if no hook can measure it.
        followed: the layers that returned its input.
        mode: of the pass.
        graph: whether a graph was made.
    """

    module: nn.Module
    traits: Traits | None
    followed: tuple[nn.Module, ...]
    mode: int
    graph: bool


class NormalizationLearner:
    """Attached beside the following of a step, it notes every call of a normalisation.

    Args:
        modules: those whose calls are followed.
        forward: the forward passes of the step.
    """

    def __init__(self, modules: Iterable[nn.Module], forward: ForwardPasses) -> None:
        self._forward = forward
        self._roles = {module: role_of(module) for module in modules}
        self._hooks = Hooks()
        self._thread = threading.get_ident()
        self._calls: list[_ObservedCall] = []
        self._made: TensorMap[tuple[nn.Module, ...]] = TensorMap()

    def attach(self) -> None:
        """Register a hook after each normalisation, and after each layer that one may follow."""
        self._hooks.after_each(self._with_role("normalization"), self._after)
        self._hooks.after_each(self._with_role("layer"), self._after_layer)

    def detach(self) -> None:
        """Remove the hooks."""
        self._hooks.remove()
        self._made.clear()

    def plan(
        self,
        seen: Sequence[Normalization],
        *,
        order: Mapping[str, int],
        layers: Mapping[Grouping, tuple[Layer, ...]],
    ) -> NormalizationPlan | None:
        """Return the plan; None where passes differ or a call is one that no hook can measure.

        Args:
            seen: the calls that gave rows, in their order.
            order: as for `NormalizationPlan`.
            layers: as for `NormalizationPlan`.
        """
        wanted = {each.module for each in seen}
        forward = self._forward
        if forward.continued:  # parts of one pass ran in different modes
            return None
        observed = [call for call in self._calls if call.module in wanted and call.mode == forward.best]
        # Each pass of the step must have made as many calls.
        if len(observed) < len(seen) or (seen and len(observed) % len(seen)):
            return None
        calls = []
        for each, call in zip(seen, observed, strict=False):
            if call.traits is None:
                return None
            calls.append(NormalizationCall(each, call.traits))
        if not all(map(_is_call_of, observed, cycle(calls))):
            return None
        mode = forward.best
        hides = bool(observed) and mode != NO_GRAPH and not observed[0].graph
        start = PassStart(forward.roots[mode], mode, hides) if observed else None
        return NormalizationPlan(tuple(calls), dict(order), layers, start)

    def _with_role(self, role: str) -> list[nn.Module]:
        return [module for module, own in self._roles.items() if own == role]

    def _after_layer(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        result = first_tensor(output)
        if result is not None and threading.get_ident() == self._thread and not in_backward():
            # A container may return the very tensor that its last layer did; a normalisation then follows both.
            self._made[result] = (*(self._made.get(result) or ()), module)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == self._thread:
            traits = None if in_backward() else traits_of(module, args, output)
            followed = self._made.get(args[0]) if args and isinstance(args[0], Tensor) else None
            mode, graph = self._forward.mode, torch.is_grad_enabled()
            self._calls.append(_ObservedCall(module, traits, followed or (), mode, graph))


def _is_call_of(call: _ObservedCall, planned: NormalizationCall) -> bool:
    """Whether a call is the planned one, rather than that of a module which is called elsewhere too."""
    own = planned.normalization
    followed = own.of in call.followed if own.of is not None else not call.followed
    return call.module is own.module and call.traits == planned.traits and followed


def traits_of(module: nn.Module, args: tuple[Any, ...], output: Any) -> Traits | None:
    """Return the traits of a call; None for one that is not of one tensor, or gives none."""
    x = args[0] if args else None
    if not isinstance(x, Tensor) or not isinstance(output, Tensor) or not x.is_floating_point():
        return None
    if x.is_inference() or not x.numel():
        return None
    graded = output.requires_grad and torch.is_grad_enabled()
    by_node = graded and output.grad_fn is not None and is_torch_backward(output.grad_fn.name())
    plain = is_plain_batchnorm(module)
    return Traits(graded, by_node, plain, plain and uses_batch_statistics(module))
