"""Santurkar's G and G' the slow, obvious way: one copy of the model and one full pass per layer, no tricks.

Nothing of `ics` is used but the list of layers. Works in whatever precision the model has.
"""

from __future__ import annotations

import copy

import numpy as np
import torch


def loss_and_gradients(model, loss_fn, batch, values, names, *, random_state, buffers):
    """Loss and gradients of `names` with `values` loaded into a copy of the model; None where there is none."""
    copied = copy.deepcopy(model)
    parameters = dict(copied.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
        for name, value in buffers.items():
            copied.get_buffer(name).copy_(value)
    torch.set_rng_state(random_state)
    loss = loss_fn(copied, batch)
    found = torch.autograd.grad(loss, [parameters[name] for name in names], allow_unused=True)
    return loss.detach(), dict(zip(names, found, strict=True))


def shifted_gradients(model, loss_fn, batch, before, after, layers, *, random_state, buffers, only=None):
    """G'_i of every layer: all layers executed before it at W(t+1), itself and all later ones at W(t)."""
    shifted = {}
    for i, layer in enumerate(layers):
        if only is not None and layer.name not in only:
            continue
        hybrid = dict(before)
        for earlier in layers[:i]:
            for name in earlier.parameters:
                hybrid[name] = after[name]
        for name in layer.parameters:
            assert hybrid[name] is before[name]
        _, shifted[layer.name] = loss_and_gradients(
            model, loss_fn, batch, hybrid, layer.parameters, random_state=random_state, buffers=buffers
        )
    return shifted


def as_vector(gradients, names, before):
    """One float64 numpy vector; zeros where the loss does not depend on a parameter."""
    found = [torch.zeros_like(before[name]) if gradients[name] is None else gradients[name] for name in names]
    return np.concatenate([value.double().numpy().ravel() for value in found])


def shift_numbers(g, g_shifted):
    """Norms, shift, cosine and relative shift of two numpy vectors."""
    norm, shifted_norm = np.sqrt((g**2).sum()), np.sqrt((g_shifted**2).sum())
    shift = np.sqrt(((g - g_shifted) ** 2).sum())
    return {
        "gradient_norm": norm,
        "shifted_gradient_norm": shifted_norm,
        "shift_l2": shift,
        "shift_cosine": (g * g_shifted).sum() / (norm * shifted_norm),
        "shift_relative": shift / norm,
    }
