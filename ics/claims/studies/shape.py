"""A study: train a net, and measure the shape of every unit's distribution on the same examples again and again.

The recorded table of activations sees another batch of 64 at each step, which gives the skewness of a unit to within
0.3 at best. A change of shape would be lost in that, the more so the heavier its tails. Here the examples are many, and
the same at every measurement, so nothing changes unless the net does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ics.claims.measures.unit_shapes import Shapes, change, describe, of_normal_draws, typical
from ics.claims.method.budgets import ClaimBudget, base
from ics.claims.method.evidence import Evidence
from ics.claims.method.runs import changed, data_name
from ics.claims.method.study import Study
from ics.errors import UsageError
from ics.experiments.data.examples import Data
from ics.experiments.nets.activations import ACTIVATIONS
from ics.experiments.nets.layers import AFFINE
from ics.experiments.training.config import RunConfig
from ics.experiments.training.experiment import Experiment, prepare
from ics.experiments.training.losses import total
from ics.experiments.training.machine import cpu_threads, draws_undone

U, WU = "u", "Wu+b"

_NUM_MEASUREMENTS = {"quick": 6, "cpu": 8, "paper": 8}
# The standard error of a skewness is about sqrt(6 / n): 0.08 for 1024 values, 0.3 for a batch of 64.
_PROBE, _VALUES, _UNITS = 1024, 1024, 64


class Place(NamedTuple):
    """A tensor of a net: its layer, the number of this layer in the order of execution, its fan-in, and the site."""

    layer: str
    layer_index: int
    fan_in: int
    site: str


def shape_study(name: str, config: RunConfig, budget: ClaimBudget, *, num_measurements: int | None = None) -> Study:
    """Return the study of the shapes of a net; equal settings share their results, whatever claims call them.

    `num_measurements` defaults to that of the budget.
    """
    bare = config.replace(instruments={}, options={}, evaluate_every=0)
    sizes = {
        "num_measurements": num_measurements or _NUM_MEASUREMENTS[budget.name],
        "num_probe": _PROBE,
        "num_values": _VALUES,
        "num_units": _UNITS,
    }
    moved = {} if data_name(config) == config.data else {"data_at": config.data}
    function = f"{__name__}:unit_shapes"
    return Study(name=name, function=function, settings=changed(bare) | sizes, local=moved)


def plain_nets(budget: ClaimBudget) -> dict[str, RunConfig]:
    """Return the standard nets on which claims about u = g(Wu' + b) are tested, by setting: g is ReLU, or saturates."""
    images = {"images": base(budget, "images")} if "images" in budget.bases else {}
    if budget.name == "paper":
        return images
    return {"digits, ReLU": base(budget), "digits, tanh": base(budget, activation="tanh")} | images


def u_and_preactivation(found: Evidence, study: str) -> pd.DataFrame:
    """Return the rows of a study of shapes that tell u from Wu+b, as nets of these names, without first and last layer.

    The first layer sees the data, which no training changes. The output of the last goes into no activation function.
    """
    rows = inner(found.study(study))
    names = {"input": U, "preactivation": WU}
    return rows[rows["site"].isin(names)].assign(net=lambda chosen: chosen["site"].map(names))


def unit_shapes(
    *,
    seed: int,
    num_measurements: int,
    num_probe: int,
    num_values: int,
    num_units: int,
    data_at: str | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Train a net and return the shapes of its units and how they change.

    Args:
        seed: of the training.
        num_measurements: how many, evenly spread, the first before any training and the last after all of it.
        num_probe: training examples that are looked at, the same for every seed; fewer if there are not so many.
        num_values: of each unit at most so many, the same at every measurement; a convolution has many more.
        num_units: of each layer at most so many, the first ones, which initialisation does not tell from the others.
        data_at: where the data lie, if `settings` has but their name.
        settings: of `RunConfig`, without net and seed.

    Normalisations see the whole probe as one batch in train mode, and their running averages stay as they were.

    Returns:
        A row per layer, site (input, preactivation, scaled: after a normalisation that follows the layer), pair of
        steps and measure: `layer`, `layer_index`, `fan_in`, `site`, `step`, `reference_step`, `measure`, `value`, the
        median over units, `num_units`, and `num_constant` of them that have no shape. `reference_step` is `step` for
        what is measured at one step: those of `describe`, the same of all units' values together (`pooled_`), the
        change between two halves of the probe (`shape_floor`), and `ks_of_normal`, the ks of as many normal draws.
        The others are those of `change`.

    Raises:
        UsageError: the model is no nn.Sequential, or fewer than two measurements.

    Cost: the training, and `num_measurements` forward passes of the probe with a sort of every unit's values.
    """
    located = {} if data_at is None else {"data": data_at}
    config = RunConfig.from_dict({"net": "probed", **settings, "seed": seed, **located})
    experiment = prepare(config)
    probe = probe_of(experiment.data, num_probe)
    seen: dict[int, dict[Place, Shapes]] = {}
    rows: list[dict[str, Any]] = []
    with cpu_threads(config.num_threads):
        for step in _trained(experiment, measured_steps(config.steps, num_measurements)):
            looked = _look(experiment.model, probe, num_values=num_values, num_units=num_units)
            seen[step] = {place: Shapes.of(values) for place, values in looked.items()}
            for place, values in looked.items():
                rows += _described(place, step, values, seen[step][place])
    for before, after in combinations(seen, 2):
        for place, shapes in seen[after].items():
            then = seen[before][place]
            rows += _rows(place, after, before, change(then, shapes), then.constant | shapes.constant)
    return pd.DataFrame(rows)


def measured_steps(steps: int, num_measurements: int) -> list[int]:
    """Return the steps of the num_measurements: optimizer steps done before each.

    Example:
        >>> measured_steps(200, 6)
        [0, 40, 80, 120, 160, 200]
    """
    if num_measurements < 2:
        raise UsageError(f"a change needs two measurements or more, got num_measurements={num_measurements}")
    return sorted({round(number * steps / (num_measurements - 1)) for number in range(num_measurements)})


def probe_of(data: Data, size: int) -> Tensor:
    """Return the inputs of at most `size` training examples, always the same ones, normalised as in training."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:size]
    return data.batch(data.train, order.to(data.train.inputs.device))[0]


def inner(rows: pd.DataFrame, *, first: bool = False) -> pd.DataFrame:
    """Return the rows of layers between the first, whose input are the data, and the last, whose outputs are the net's.

    Args:
        rows: a frame with `layer_index`, all of one net.
        first: keep the first layer.
    """
    index = rows["layer_index"]
    return rows[(index < index.max()) & (first | (index > index.min()))]


def sites(model: nn.Module, inputs: Tensor) -> Iterator[tuple[Place, Tensor]]:
    """Run a net module by module and yield the input and output of its layers.

    Use each tensor before you ask for the next: the activation that follows may work in place.

    Raises:
        UsageError: the model is no nn.Sequential (of such): what runs when cannot be told from outside.
    """
    index, place = -1, None
    for name, module in _in_order(model):
        if isinstance(module, AFFINE):
            index += 1
            place = Place(name, index, module.weight[0].numel(), "preactivation")
            yield place._replace(site="input"), inputs
            inputs = module(inputs)
            yield place, inputs
            continue
        inputs = module(inputs)
        if place is not None and not isinstance(module, _ACTIVATIONS):
            yield place._replace(site="scaled"), inputs
        place = None


_ACTIVATIONS = tuple(ACTIVATIONS.values())


def _in_order(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(model, nn.Sequential):
        raise UsageError(f"expected a net made of nn.Sequential, got {type(model).__name__}; type model='mlp'")
    for name, module in model.named_children():
        if isinstance(module, nn.Sequential):
            yield from _in_order(module, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", module


def _trained(experiment: Experiment, steps: list[int]) -> Iterator[int]:
    """Train as `ics.experiments.fit` does, without a recorder, and yield at these numbers of steps done."""
    for number, batch in enumerate(experiment.batches()):
        if number in steps:
            yield number
        experiment.optimizer.zero_grad()
        total(experiment.loss_terms(batch)).backward()
        experiment.optimizer.step()
        experiment.after_step(batch)
    yield experiment.config.steps


def _look(model: nn.Module, probe: Tensor, *, num_values: int, num_units: int) -> dict[Place, np.ndarray]:
    # A twin, because its pass in train mode moves running averages, which the net itself must not notice.
    twin = copy.deepcopy(model).train()
    with torch.no_grad(), draws_undone(probe.device):
        return {place: _of_units(tensor[:, :num_units], num_values) for place, tensor in sites(twin, probe)}


def _of_units(tensor: Tensor, num_values: int) -> np.ndarray:
    """Return (N, units, ...) as (units, at most `num_values`), sample after sample, at the same places every time."""
    values = tensor.movedim(1, 0).flatten(1)
    if values.shape[1] > num_values:
        order = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(0))
        values = values[:, order[:num_values].sort().values.to(values.device)]
    return values.double().cpu().numpy()


def _described(place: Place, step: int, values: np.ndarray, shapes: Shapes) -> Iterator[dict[str, Any]]:
    yield from _rows(place, step, step, describe(values), shapes.constant)
    together = values.reshape(1, -1)
    pooled = {f"pooled_{name}": numbers for name, numbers in describe(together).items()}
    yield from _rows(place, step, step, pooled, Shapes.of(together).constant)
    half = values.shape[1] // 2
    one, other = Shapes.of(values[:, :half]), Shapes.of(values[:, half : 2 * half])
    floor = {"shape_floor": change(one, other)["shape_change"]}
    yield from _rows(place, step, step, floor, one.constant | other.constant)
    normal = {"ks_of_normal": np.array([of_normal_draws(values.shape[1])["ks"]])}
    yield from _rows(place, step, step, normal, np.array([False]))


def _rows(
    place: Place, step: int, reference_step: int, numbers: Mapping[str, np.ndarray], constant: np.ndarray
) -> list[dict[str, Any]]:
    found = place._asdict() | {"step": step, "reference_step": reference_step}
    counts = {"num_units": len(constant), "num_constant": int(constant.sum())}
    return [found | {"measure": name, "value": typical(values)} | counts for name, values in numbers.items()]
