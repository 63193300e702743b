"""G' of every layer, one full forward-backward pass each: obvious, and right for any model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ics.landscape.hybrids.plan import Hybrid, HybridPlan
from ics.landscape.transition import ParameterGradients, Transition
from ics.records import Layer


def full_passes(
    plan: HybridPlan, *, found: Mapping[str, ParameterGradients] | None = None
) -> Iterator[tuple[Layer, ParameterGradients]]:
    """Yield each selected layer with G'_i, the gradient for its own parameters at the hybrid W' of that layer.

    Args:
        plan: the hybrids of the selected layers.
        found: G' by layer name, as far as another way has found it; the other layers get a full pass.

    Cost: a forward-backward pass for every selected layer before which a parameter has moved, and that is not found.

    Example:
        >>> import torch
        >>> from ics.landscape import Objective, make_transition
        >>> from ics.landscape.hybrids.plan import plan_hybrids
        >>> model = torch.nn.Sequential(*[torch.nn.Linear(1, 1, bias=False) for _ in range(2)])
        >>> objective = Objective(model, lambda model, x: model(x).sum(), torch.ones(1, 1))   # L = ab, dL/db = a
        >>> before = {"0.weight": torch.tensor([[3.0]]), "1.weight": torch.tensor([[1.0]])}
        >>> step = make_transition(objective, before=before, after={"0.weight": torch.tensor([[5.0]])})
        >>> layers = [Layer(n, i, "Linear", (n,), (), (f"{n}.weight",), (), 0) for i, n in enumerate("01")]
        >>> plan = plan_hybrids(step, layers=layers, selected="01")
        >>> [float(found[f"{layer.name}.weight"]) for layer, found in full_passes(plan)]
        [1.0, 5.0]
    """
    found = {} if found is None else found
    for hybrid in plan.hybrids:
        name = hybrid.layer.name
        yield hybrid.layer, found[name] if name in found else full_pass(plan.transition, hybrid)


def full_pass(transition: Transition, hybrid: Hybrid) -> ParameterGradients:
    """Return G' of one layer.

    Without a pass where nothing before the layer moved: the hybrid is W(t) itself, where G is the gradient. This gives
    a shift of exactly 0, even for a model that is not deterministic.
    """
    if not hybrid.needs_pass:
        return {name: transition.gradients[name] for name in hybrid.wanted}
    return transition.objective(hybrid.parameters, wanted=hybrid.wanted).gradients
