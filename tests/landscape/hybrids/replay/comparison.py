"""A step of any net, and prefix reuse held against the reference, bit for bit."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F

from ics.landscape import Objective, RandomState, make_transition
from ics.landscape.hybrids.plan import plan_hybrids
from ics.landscape.hybrids.replay.prefix_reuse import prefix_reuse
from ics.probes import find_layers
from tests.landscape.nets import copies
from tests.reference.gradient_shift_kpass import shifted_gradients


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def vectors(size=5):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(size, 6, generator=generator), torch.randint(0, 3, (size,), generator=generator)


def moved(model, loss_fn, batch, *, seed=0):
    """A transition by one gradient step of any model, its layers, and what the reference needs to replay."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    state, buffers = RandomState.capture(model), copies(model.named_buffers())
    objective = Objective(model, loss_fn, batch)
    before = copies(model.named_parameters())
    after = {name: before[name] - 0.1 * g for name, g in objective(before).gradients.items() if g is not None}
    layers = find_layers(model, lambda: objective(before), grouping="leaf")

    def replaying(model, batch):
        random.setstate(state.python)
        np.random.set_state(state.numpy)
        return loss_fn(model, batch)

    circumstances = {"loss_fn": replaying, "random_state": state.cpu, "buffers": buffers}
    return make_transition(objective, before=before, after=after), layers, circumstances


def assert_equal_to_the_reference(transition, layers, circumstances, *, selected=None, **options):
    """Every gradient bit for bit, from the fast path itself: falling back warns, and warnings are errors."""
    objective = transition.objective
    selected = [layer.name for layer in layers] if selected is None else selected
    found = {
        layer.name: shifted
        for layer, shifted in prefix_reuse(plan_hybrids(transition, layers=layers, selected=selected), **options)
    }
    wanted = shifted_gradients(
        model=objective.model,
        batch=objective.batches[0],
        before=transition.before,
        after=transition.after,
        layers=layers,
        only=selected,
        **circumstances,
    )
    assert list(found) == selected
    for layer in wanted:
        for name, gradient in wanted[layer].items():
            same = found[layer][name] is None if gradient is None else torch.equal(found[layer][name], gradient)
            assert same, (layer, name)
    shifted = {name: g for each in found.values() for name, g in each.items() if g is not None}
    assert any(not torch.equal(g, transition.gradients[name]) for name, g in shifted.items())
