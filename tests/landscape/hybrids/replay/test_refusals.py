from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ics.landscape.hybrids.replay.prefix_reuse as fast
from ics.errors import MeasurementWarning
from ics.landscape import gradient_shift
from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.plan import plan_hybrids
from ics.landscape.hybrids.replay.prefix_reuse import prefix_reuse
from tests.landscape.hybrids.replay.comparison import cross_entropy, moved, vectors
from tests.landscape.hybrids.replay.tricky import TRICKY


@pytest.fixture(autouse=True)
def _always_worthwhile(monkeypatch):
    monkeypatch.setattr(fast, "_WORTHWHILE", 1)


class Fickle(nn.Module):
    """Calls its modules in another order each time, by a count that no replay can put back."""

    calls: ClassVar[list[int]] = []

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.pair = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        Fickle.calls.append(1)
        h, order = torch.tanh(self.stem(x)), len(Fickle.calls) % 2
        return self.head(torch.tanh(self.pair[order](h)) + torch.tanh(self.pair[1 - order](h)))


class Spoiling(nn.Module):
    """Writes into what a module returned, but not when it is first called: it multiplies by one."""

    calls: ClassVar[list[int]] = []

    def __init__(self):
        super().__init__()
        self.stem, self.middle, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        Spoiling.calls.append(1)
        h = self.stem(x)
        if len(Spoiling.calls) > 5:
            h.mul_(1.0)
        return self.head(torch.tanh(self.middle(h)))


class Renormed(nn.Module):
    """An embedding that writes into its weight."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(9, 6, max_norm=0.5), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.mix(self.embed(x.abs().mul(3).long().clamp(max=8)).mean(1))))


class Unmoved(nn.Module):
    """Hands zeros over behind everybody's back: no value tells of which pass they are, only the graph does."""

    memory: ClassVar[list[torch.Tensor]] = []

    class Giving(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            Unmoved.memory[:] = [out - out.detach()]
            return out

    def __init__(self):
        super().__init__()
        self.stem, self.giving, self.later = nn.Linear(6, 6), self.Giving(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.later(torch.tanh(self.giving(self.stem(x))))) + Unmoved.memory[0])


class Shared(nn.Module):
    """Hands values over through a global list, behind everybody's back."""

    memory: ClassVar[list[torch.Tensor]] = []

    class Giving(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            Shared.memory.append(out)
            return out

    def __init__(self):
        super().__init__()
        self.stem, self.giving, self.later, self.head = (
            *(nn.Linear(6, 6), self.Giving(6, 6), nn.Linear(6, 6)),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        Shared.memory.clear()
        h = self.later(self.giving(self.stem(x)))
        return self.head(h + sum(Shared.memory))


class Remembering(Shared):
    """Hands a value over through a global dictionary, where that of the pass before would still be."""

    values: ClassVar[dict[str, torch.Tensor]] = {}

    class Giving(nn.Linear):
        def forward(self, x):
            Remembering.values["out"] = out = super().forward(x)
            return out

    def forward(self, x):
        return self.head(self.later(self.giving(self.stem(x))) + Remembering.values["out"])


def gradient_penalised(model, batch):
    x = batch[0].clone().requires_grad_()
    out = model(x)
    (slope,) = torch.autograd.grad(out.logsumexp(1).sum(), x, create_graph=True)
    return F.cross_entropy(out, batch[1]) + slope.square().sum()


@pytest.mark.parametrize(
    ("build", "loss_fn", "reason"),
    [
        (Fickle, cross_entropy, "another order"),
        (Spoiling, cross_entropy, "a tensor that it left alone"),
        (Renormed, cross_entropy, "writes into its parameters"),
        (Shared, cross_entropy, "the loss is another one"),
        (Remembering, cross_entropy, "the loss is another one"),
        (Unmoved, cross_entropy, "earlier pass left behind"),
        (TRICKY["preactivation"], gradient_penalised, "RuntimeError"),
        (lambda: nn.DataParallel(TRICKY["preactivation"]()), cross_entropy, "cannot be intercepted"),
    ],
)
def test_a_model_that_cannot_be_replayed_is_measured_by_full_passes_and_one_warning_says_so(build, loss_fn, reason):
    torch.manual_seed(3)
    model = build()
    transition, layers, _ = moved(model, loss_fn, vectors())
    names = [layer.name for layer in layers]
    with pytest.warns(MeasurementWarning, match=reason) as caught:
        found = dict(prefix_reuse(plan_hybrids(transition, layers=layers, selected=names)))
    assert len(caught) == 1
    assert type(model).__name__ in str(caught[0].message)
    if build is not Fickle:
        for layer, gradients in full_passes(plan_hybrids(transition, layers=layers, selected=names)):
            assert all(torch.equal(found[layer][name], gradient) for name, gradient in gradients.items())
        gradient_shift(transition, layers=layers)  # no second warning
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_error_of_the_user_is_raised_as_it_is():
    torch.manual_seed(3)
    transition, layers, _ = moved(TRICKY["preactivation"](), cross_entropy, vectors())

    def broken(module, args):
        raise KeyError("out of luck")

    transition.objective.model.blocks[1].register_forward_pre_hook(broken)
    with pytest.raises(KeyError, match="out of luck"), pytest.warns(MeasurementWarning, match="out of luck"):
        list(prefix_reuse(plan_hybrids(transition, layers=layers, selected=[layer.name for layer in layers])))
