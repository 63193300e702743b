"""C13: do running averages stand in for batch statistics at test time: by batch size, and by layer?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import nn

from ics.analysis import as_array
from ics.claims.measures.learning import last, of_net
from ics.claims.method.budgets import BUDGETS, ClaimBudget, base
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, difference, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above, below
from ics.claims.method.study import Study
from ics.experiments.training.config import RunConfig
from ics.experiments.training.evaluation import batch_statistics, evaluating
from ics.experiments.training.experiment import Experiment, prepare
from ics.experiments.training.losses import LOSSES

_RUNNING, _BATCH, _POPULATION = "running averages", "batch statistics", "statistics of all training examples"
_SIZES = (4, 16, 64, 256)
_OWN_SIZE = 64
_EVALUATED = (4, 16, 64, 1000)
_STUDY = "gap"
_ALL = "all layers"
_LOGGED = ("test_loss", "test_accuracy")
_COLUMNS = (
    "step",
    "layer",
    "layer_index",
    "count",
    "channel_batch_mean",
    "channel_batch_variance",
    "channel_running_mean",
    "channel_running_variance",
)
_ERRORS = {
    "mean_error": "running against batch mean, in standard errors of the mean of as many independent values",
    "variance_error": "running against batch log variance, in standard errors of as many independent normal values",
}


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """The BatchNorm net trained in batches of several sizes, and on each further base in its own."""
    sized = [_sized(budget, size) for size in _SIZES] if "digits" in budget.bases else []
    others = [base(budget, name, norm="batch") for name in budget.bases if name != "digits"]
    return (*sized, *others)


def _sized(budget: ClaimBudget, size: int) -> RunConfig:
    config = base(budget, norm="batch", net=f"batches of {size}")
    if size == _OWN_SIZE:
        return config
    return config.replace(batch_size=size, instruments={"normalization": config.instruments["normalization"]})


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """The digits net, as long as the budget trains it."""
    settings = {"steps": budget.steps, "batch_sizes": list(_EVALUATED)}
    return (Study(name=_STUDY, function=f"{__name__}:gap", settings=settings, revision=2),)


def gap(*, seed: int, steps: int, batch_sizes: list[int]) -> pd.DataFrame:
    """Return the test loss of a trained BatchNorm net with running averages, and with other statistics instead.

    By the statistics of all training examples, which running averages are to estimate, in one pass; and by those of
    batches of test examples: all layers by batches of each size, and one layer alone by batches of the training's size.
    Batches share the test set out among them, so that sizes are about those asked for.

    Returns:
        A row per evaluation: `net` ("running averages", "batch statistics" or "statistics of all training examples"),
        `layer` (or "all layers"), `batch_size`, `loss` (nat), `accuracy`.

    Cost: a training of `steps` steps, and about ten passes over the test set.
    """
    config = base(BUDGETS["quick"], norm="batch", steps=steps, instruments={}, evaluate_every=0, seed=seed)
    experiment = prepare(config)
    for batch in experiment.batches():
        experiment.optimizer.zero_grad()
        experiment.loss_fn(experiment.model, batch).backward()
        experiment.optimizer.step()
    return evaluated(experiment, batch_sizes=batch_sizes)


def evaluated(experiment: Experiment, *, batch_sizes: list[int]) -> pd.DataFrame:
    """Return the rows of `gap` for the net as it is; leaves its parameters, buffers and modes as they were."""
    model, own_size = experiment.model, experiment.config.batch_size or 0
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm1d)}
    with torch.no_grad(), evaluating(model):
        rows = [{"net": _RUNNING, "layer": _ALL, "batch_size": own_size} | _measured(experiment, own_size)]
        with _statistics_of_training(experiment, norms.values()):
            rows.append({"net": _POPULATION, "layer": _ALL, "batch_size": own_size} | _measured(experiment, own_size))
        for size in batch_sizes:
            with batch_statistics(model):
                rows.append({"net": _BATCH, "layer": _ALL, "batch_size": size} | _measured(experiment, size))
        for name, norm in norms.items():
            with batch_statistics(norm):
                rows.append({"net": _BATCH, "layer": name, "batch_size": own_size} | _measured(experiment, own_size))
    return pd.DataFrame(rows)


@contextmanager
def _statistics_of_training(experiment: Experiment, norms: Iterable[nn.BatchNorm1d]) -> Iterator[None]:
    """Let norms, in eval mode, use mean and unbiased variance of all training examples in one pass; then as before."""
    momenta = {norm: norm.momentum for norm in norms}
    with batch_statistics(experiment.model):
        for norm in momenta:
            norm.momentum = 1.0  # the running averages are then those of the one batch, which holds all examples
        experiment.model(experiment.data.batch(experiment.data.train, slice(None))[0])
        for norm, momentum in momenta.items():
            norm.momentum, norm.training = momentum, False
        yield


def _measured(experiment: Experiment, batch_size: int) -> dict[str, float]:
    """Loss and accuracy over the whole test set, in batches of about this size, in an order drawn once for all."""
    data = experiment.data
    assert data.test is not None
    count = len(data.test)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(experiment.config.seed))
    loss, correct = 0.0, 0
    for chosen in order.tensor_split(max(1, round(count / batch_size))):
        inputs, targets = data.batch(data.test, chosen)
        loss += float(LOSSES["cross_entropy"](experiment.model, (inputs, targets))) * len(chosen)
        correct += int((experiment.model(inputs).argmax(dim=1) == targets).sum())
    return {"loss": loss / count, "accuracy": correct / count}


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Loss and accuracy with running averages against batch statistics, and how far the two lie apart in each layer."""
    measured = {name: (last(found, name), last(found, f"{name}_batch_statistics")) for name in _LOGGED}
    effects: list[Effect] = []
    for net in found.nets:
        loss, accuracy = (_two_ways(*measured[name], net) for name in _LOGGED)
        words = {"measure": "loss_ratio", "meaning": "test loss at the end of training", "setting": net}
        effects.append(ratio(loss, _RUNNING, _BATCH, **words))
        words = {"measure": "accuracy_gap", "meaning": "test accuracy at the end of training", "setting": net}
        effects.append(difference(accuracy, _RUNNING, _BATCH, unit="fraction of examples", **words))
    return (*effects, *_by_layer(found), *_of_study(found))


def _two_ways(running: pd.Series, batch: pd.Series, net: str) -> pd.Series:
    """The two numbers of one net, by way and seed."""
    ways = {_RUNNING: running, _BATCH: batch}
    return pd.concat({way: of_net(numbers, net) for way, numbers in ways.items()}, names=["net", "seed"])


def _by_layer(found: Evidence) -> list[Effect]:
    """The distance of running averages to batch statistics: of each net, and of each layer of the shared nets."""
    rows = found.table("normalization", columns=_COLUMNS)
    rows = rows.assign(**errors(rows))
    effects = []
    for measure, told in _ERRORS.items():
        numbers = per_seed(rows, measure)
        meaning = f"{told}, root mean square over channels, median over layers, then over steps"
        effects += [value(numbers, net, measure=measure, meaning=meaning, unit="1", setting=net) for net in found.nets]
    layered = [net for net in found.nets if net == f"batches of {_OWN_SIZE}" or not net.startswith("batches of")]
    for (net, layer), own in rows[rows["net"].isin(layered)].groupby(["net", "layer"], sort=False):
        numbers = per_seed(own, "mean_error")
        meaning = f"{_ERRORS['mean_error']}, root mean square over channels, median over steps"
        words = {"measure": "mean_error_of_layer", "meaning": meaning, "unit": "1", "setting": f"{net}, {layer}"}
        effects.append(value(numbers, str(net), **words))
    return effects


def errors(rows: pd.DataFrame) -> dict[str, list[float]]:
    """Return `mean_error` and `variance_error` of each row of the table normalization.

        mean_error     = sqrt(mean over channels of (running - batch mean)^2 / (s^2 / m))
        variance_error = sqrt(mean over channels of ln(running variance / s^2)^2 / (2 / (m - 1)))

    s^2 is the unbiased variance of the m values of a channel. The averages have seen the batch, with weight 0.1: if
    every batch is an independent sample from one and the same distribution, the expected square is
    0.9^2 (1 + 0.1 / 1.9) = 0.92^2. Behind another BatchNorm, which has fixed mean and variance of this very batch,
    means vary less than those of independent values, and the error of averages that do not lag is smaller.
    """
    found: dict[str, list[float]] = {name: [] for name in _ERRORS}
    for m, *cells in rows[list(_COLUMNS[3:])].itertuples(index=False):
        mean, biased, running_mean, running_variance = (as_array(cell) for cell in cells)
        variance = np.where(biased > 0, biased, np.nan) * m / (m - 1)  # a constant channel has no standard error
        with np.errstate(all="ignore"):  # a net that diverged has no finite statistics
            off = (running_mean - mean) / np.sqrt(variance / m)
            wide = np.log(running_variance / variance) / np.sqrt(2 / (m - 1))
        found["mean_error"].append(_root_mean_square(off))
        found["variance_error"].append(_root_mean_square(wide))
    return found


def _root_mean_square(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(np.sqrt((defined**2).mean())) if defined.size else float("nan")


def _of_study(found: Evidence) -> list[Effect]:
    """One trained net, read with batch statistics of batches of other sizes, and in one layer alone."""
    rows = found.study(_STUDY)
    running, told = rows[rows["net"] == _RUNNING], f"test loss of one net, trained in batches of {_OWN_SIZE}"
    losses = per_seed(rows[rows["layer"] == _ALL], "loss", by=())
    effects = [ratio(losses, _RUNNING, _POPULATION, measure="loss_ratio_to_population", meaning=told)]
    for (layer, size), own in rows[rows["net"] == _BATCH].groupby(["layer", "batch_size"], sort=False):
        numbers = per_seed(pd.concat([running, own]), "loss", by=())
        where = f"batches of {size} in test" if layer == _ALL else f"in {layer} alone"
        effects.append(ratio(numbers, _RUNNING, _BATCH, measure="loss_ratio_in_test", meaning=told, setting=where))
    return effects


C13 = Claim(
    id="C13",
    nets=nets,
    studies=studies,
    evidence=evidence,
    rule=(
        below("loss_ratio", 1.1, why="a tenth more is the smallest loss that counts"),
        above("accuracy_gap", -0.01, why="one example in a hundred is the smallest loss that counts"),
    ),
    published="Taken for granted by Ioffe & Szegedy 2015. Ioffe 2017 (Batch Renormalization) and Wu & He 2018 (Group "
    "Normalization) report that nets trained in small batches get worse, and trace it to this difference.",
    remark="One-sided: running averages may do better than batch statistics, whose noise is worst in the smallest "
    "batches. A net trained in batches of 4 is held against itself in batches of 4, not against a better net. The "
    "learning rate is constant to the end; with a schedule that ends low the averages lag behind less. Test examples "
    "come from the distribution of the training examples. mean_error and variance_error are 0.92 for averages of "
    "independent values that stand still; smaller behind another BatchNorm, which has fixed the mean of this very "
    "batch, and larger for images, whose places are not independent.",
)
