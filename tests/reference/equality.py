"""One training step of a net, G' of all its layers by prefix reuse and by the reference, and how they compare."""

from __future__ import annotations

import copy
import time
import warnings
from dataclasses import dataclass
from importlib import import_module
from unittest import mock

import torch

from ics.errors import MeasurementWarning
from ics.landscape import Objective, RandomState, make_transition
from ics.landscape.hybrids.plan import plan_hybrids
from ics.landscape.hybrids.replay.prefix_reuse import prefix_reuse
from ics.probes import find_layers
from tests.reference.gradient_shift_kpass import shifted_gradients

LEARNING_RATE = 0.02
FULL = import_module("ics.landscape.hybrids.full_passes")


@dataclass(frozen=True)
class Comparison:
    """What came out for one net in one precision.

    Attributes:
        layers: number of layers.
        equal: layers whose gradients are all equal bit by bit.
        moved: layers whose G' differs from G: without a shift, equality would say nothing.
        difference: largest ||fast - slow|| / ||slow|| over the layers.
        worst: name of that layer; None if all are equal.
        finite: whether all gradients are finite.
        fell_back: why full passes were taken; None if every G' came from a replay.
        seconds: CPU time of a plain step, of prefix reuse the first and the second time, and of the reference.
    """

    layers: int
    equal: int
    moved: int
    difference: float
    worst: str | None
    finite: bool
    fell_back: str | None
    seconds: tuple[float, float, float, float]


def compare(family, dtype):
    """Train a net for two steps, and compare both ways to G' for the second one."""
    torch.manual_seed(0)
    model = family.make().to(dtype)
    batch = family.batch(dtype)
    pristine = copy.deepcopy(model)  # a net that has run may hold tensors with a graph, which cannot be copied
    layers = _layers(model, family, batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    for _ in range(2):
        before, buffers, state = (
            _copies(model.named_parameters()),
            _copies(model.named_buffers()),
            RandomState.capture(model),
        )
        plain = _step(model, family.loss_fn, batch, optimizer)
    after = _copies(model.named_parameters())

    objective = Objective(model, family.loss_fn, batch, random_state=state, buffers=buffers)
    transition = make_transition(objective, before=before, after=after)
    found, reasons, fast_seconds = [], [], []
    for _ in range(2):  # the first time the way is checked, from then on it is trusted
        shifted, reason, seconds = _fast(transition, layers)
        found.append(shifted)
        reasons += [reason] if reason else []
        fast_seconds.append(seconds)

    started = time.process_time()
    slow = shifted_gradients(
        pristine, family.loss_fn, batch, before, after, layers, random_state=state.cpu, buffers=buffers
    )
    seconds = (plain, *fast_seconds, time.process_time() - started)
    compared = [_compared(layers, transition.gradients, fast, slow, reasons[:1], seconds) for fast in found]
    return min(compared, key=lambda each: each.equal)


def _fast(transition, layers):
    """G' by prefix reuse, why it fell back, and the CPU time."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        started = time.process_time()
        with mock.patch.object(FULL, "full_pass", side_effect=_noting(FULL.full_pass, passes := [])):
            plan = plan_hybrids(transition, layers=layers, selected={layer.name for layer in layers})
            fast = {layer.name: found for layer, found in prefix_reuse(plan)}
        seconds = time.process_time() - started
    reasons = [str(each.message) for each in caught if issubclass(each.category, MeasurementWarning)]
    if not reasons and any(found is fast[name] for name, found in passes):
        reasons = ["nothing was said, but what was returned is from full passes"]
    return fast, "; ".join(reasons), seconds


def _noting(full_pass, passes):
    """`full_pass`, with what it returned for layers before which something moved noted in `passes`."""

    def noting(transition, hybrid):
        found = full_pass(transition, hybrid)
        if hybrid.needs_pass:
            passes.append((hybrid.layer.name, found))
        return found

    return noting


def _layers(model, family, batch):
    """The layers of a copy: looking for them changes nothing of the model."""
    copied = copy.deepcopy(model)
    drawn = torch.get_rng_state()
    found = find_layers(copied, lambda: family.loss_fn(copied, batch))
    torch.set_rng_state(drawn)
    return list(found)


def _step(model, loss_fn, batch, optimizer):
    started = time.process_time()
    optimizer.zero_grad()
    loss_fn(model, batch).backward()
    optimizer.step()
    return time.process_time() - started


def _compared(layers, present, fast, slow, reasons, seconds):
    equal, moved, differences, finite = 0, 0, {}, True
    for layer in layers:
        pairs = [(fast[layer.name][name], slow[layer.name][name], present[name]) for name in layer.parameters]
        equal += all(_same(ours, theirs) for ours, theirs, _ in pairs)
        moved += not all(_same(theirs, g) for _, theirs, g in pairs)
        differences[layer.name] = _difference(pairs)
        finite = finite and all(each is None or bool(each.isfinite().all()) for pair in pairs for each in pair)
    worst = max(differences, key=lambda name: differences[name])
    return Comparison(
        layers=len(layers),
        equal=equal,
        moved=moved,
        difference=differences[worst],
        worst=worst if differences[worst] > 0 else None,
        finite=finite,
        fell_back="; ".join(reasons) or None,
        seconds=seconds,
    )


def _same(a, b):
    return a is b is None or (a is not None and b is not None and torch.equal(a, b))


def _difference(pairs):
    """||fast - slow|| / ||slow|| over a layer; infinite where only one way has a gradient."""
    error = norm = 0.0
    for ours, theirs, _ in pairs:
        if (ours is None) != (theirs is None):
            return float("inf")
        if ours is not None:
            error += float((ours.double() - theirs.double()).square().sum())
            norm += float(theirs.double().square().sum())
    if error != error:
        return float("nan")
    return 0.0 if error == 0 else (error / norm) ** 0.5 if norm else float("inf")


def _copies(named):
    return {name: value.detach().clone() for name, value in named}
