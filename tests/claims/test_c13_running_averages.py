"""C13 on tables for which the verdict is known; its errors and its study against numpy."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from ics.claims import BUDGETS, CLAIMS, Evidence, base, weigh
from ics.claims.c13_running_averages import errors, evaluated, gap
from ics.experiments.training.experiment import prepare
from tests.claims.made_up import SEEDS, losses, named

QUICK = BUDGETS["quick"]
NETS = {config.net: config for config in CLAIMS["C13"].nets(QUICK)}


def statistics(net: str, seed: int, *, off: float = 0.0, m: int = 64) -> dict[str, object]:
    """Running averages that are `off` batch means from the batch's, in standard deviations."""
    return {
        "net": net,
        "seed": seed,
        "step": 0,
        "layer": "norm1",
        "layer_index": 0,
        "count": m,
        "channel_batch_mean": np.array([0.0, 1.0]),
        "channel_batch_variance": np.array([1.0, 4.0]) * (m - 1) / m,
        "channel_running_mean": np.array([off, 1.0 + 2 * off]),
        "channel_running_variance": np.array([1.0, 4.0]) * math.exp(off),
    }


def study(batch: float) -> pd.DataFrame:
    rows = [
        {"net": "running averages", "layer": "all layers", "batch_size": 64, "loss": 0.2},
        {"net": "statistics of all training examples", "layer": "all layers", "batch_size": 64, "loss": 0.1},
        {"net": "batch statistics", "layer": "all layers", "batch_size": 4, "loss": batch},
        {"net": "batch statistics", "layer": "norm1", "batch_size": 64, "loss": batch},
    ]
    return pd.DataFrame([row | {"seed": seed} for row in rows for seed in SEEDS])


def weighed(loss: tuple[float, float], accuracy: tuple[float, float], *, seeds: range = range(5)):
    logged = {
        "test_loss": loss[0],
        "test_loss_batch_statistics": loss[1],
        "test_accuracy": accuracy[0],
        "test_accuracy_batch_statistics": accuracy[1],
    }
    steps = [row for net in NETS for row in losses(net, 0.05, seeds=seeds, **logged)]
    norms = [statistics(net, seed, off=0.5) for net in NETS for seed in seeds]
    frames = {"steps": pd.DataFrame(steps), "normalization": pd.DataFrame(norms)}
    return weigh(CLAIMS["C13"], Evidence.of_frames(frames, studies={"gap": study(0.4)}, configs=NETS))


@pytest.mark.parametrize(
    ("loss", "accuracy", "outcome"),
    [
        ((0.2, 0.2), (0.9, 0.9), "supported"),
        ((0.2, 0.8), (0.9, 0.5), "supported"),  # better than noisy batch statistics
        ((0.8, 0.2), (0.5, 0.9), "contradicted"),
        ((0.8, 0.2), (0.9, 0.9), "mixed"),
    ],
)
def test_good_or_bad_replacement(loss, accuracy, outcome) -> None:
    assert weighed(loss, accuracy)[1].outcome == outcome


def test_numbers_by_hand() -> None:
    effects, _ = weighed((0.3, 0.2), (0.8, 0.9))
    assert named(effects, "loss_ratio", "batches of 4").numbers == pytest.approx([1.5] * 5)
    assert named(effects, "accuracy_gap", "batches of 4").numbers[0] == pytest.approx(-0.1)
    # Half a standard deviation is four standard errors of the mean of 64 values.
    assert named(effects, "mean_error", "batches of 256").numbers == pytest.approx([4.0] * 5)
    assert named(effects, "mean_error_of_layer", "batches of 64, norm1").numbers == pytest.approx([4.0] * 5)
    assert named(effects, "variance_error", "batches of 4").numbers == pytest.approx([0.5 / math.sqrt(2 / 63)] * 5)
    assert named(effects, "loss_ratio_to_population").numbers == pytest.approx([2.0] * 5)
    assert named(effects, "loss_ratio_in_test", "in norm1 alone").numbers == pytest.approx([0.5] * 5)
    assert named(effects, "loss_ratio_in_test", "batches of 4 in test").numbers == pytest.approx([0.5] * 5)


def test_one_seed_decides_nothing() -> None:
    assert weighed((0.2, 0.2), (0.9, 0.9), seeds=range(1))[1].outcome == "inconclusive"


def test_averages_of_a_distribution_that_stands_still_err_by_092() -> None:
    random = np.random.default_rng(0)
    num_channels, m = 50, 64
    mean, variance, rows = np.zeros(num_channels), np.ones(num_channels), []
    for step in range(400):
        batch = random.normal(size=(m, num_channels))
        mean, variance = 0.9 * mean + 0.1 * batch.mean(0), 0.9 * variance + 0.1 * batch.var(0, ddof=1)
        if step >= 100:
            names = ("batch_mean", "batch_variance", "running_mean", "running_variance")
            cells = zip(names, (batch.mean(0), batch.var(0), mean, variance), strict=True)
            keys = {"step": step, "layer": "norm1", "layer_index": 0, "count": m}
            rows.append(keys | {f"channel_{name}": cell for name, cell in cells})
    found = {name: np.sqrt(np.mean(np.square(values))) for name, values in errors(pd.DataFrame(rows)).items()}
    expected = 0.9 * math.sqrt(1 + 0.1 / 1.9)
    assert found["mean_error"] == pytest.approx(expected, rel=0.02)
    assert found["variance_error"] == pytest.approx(expected, rel=0.03)


def test_a_constant_channel_has_no_standard_error() -> None:
    row = statistics("a", 0, off=0.5)
    row["channel_batch_variance"] = np.array([1.0 * 63 / 64, 0.0])
    row["channel_running_variance"] = np.array([math.exp(0.5), 0.0])
    found = errors(pd.DataFrame([row]))
    assert found["mean_error"] == pytest.approx([4.0])
    assert found["variance_error"] == pytest.approx([0.5 / math.sqrt(2 / 63)])


def test_the_study_against_a_net_written_out() -> None:
    config = base(QUICK, norm="batch", instruments={}, evaluate_every=0, hidden=(5, 4), dtype="float64")
    experiment = prepare(config)
    for batch in experiment.data.batches(batch_size=64, num_batches=3, seed=1):
        experiment.model(batch[0])  # moves the running averages
    before = {name: value.clone() for name, value in experiment.model.state_dict().items()}
    rows = evaluated(experiment, batch_sizes=[100]).set_index(["net", "layer"])
    after = experiment.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training for module in experiment.model.modules())
    assert list(rows.index) == [
        ("running averages", "all layers"),
        ("statistics of all training examples", "all layers"),
        ("batch statistics", "all layers"),
        ("batch statistics", "norm1"),
        ("batch statistics", "norm2"),
    ]
    parameters = {name: value.numpy() for name, value in before.items()}
    inputs, targets = (part.numpy() for part in experiment.data.batch(experiment.data.test, slice(None)))
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0)).numpy()
    cases = {
        ("running averages", "all layers"): ((), 64),
        ("batch statistics", "all layers"): ((1, 2), 100),
        ("batch statistics", "norm2"): ((2,), 64),
    }
    for place, (by_batch, size) in cases.items():
        parts = np.array_split(order, round(len(order) / size))
        losses_of = [cross_entropy(forward(parameters, inputs[part], by_batch), targets[part]) for part in parts]
        assert rows.loc[place, "loss"] == pytest.approx(np.concatenate(losses_of).mean())
    everything = experiment.data.batch(experiment.data.train, slice(None))[0].numpy()
    logits = forward(with_statistics_of(parameters, everything), inputs, ())
    by_population = rows.loc[("statistics of all training examples", "all layers"), "loss"]
    assert by_population == pytest.approx(cross_entropy(logits, targets).mean())


def with_statistics_of(parameters: dict[str, np.ndarray], inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The parameters with mean and unbiased variance of one pass by the statistics of these inputs."""
    found = dict(parameters)
    forward(found, inputs, (1, 2), note=found)
    return found


def forward(
    parameters: dict[str, np.ndarray], inputs: np.ndarray, by_batch: tuple[int, ...], note: dict | None = None
) -> np.ndarray:
    u = inputs.reshape(len(inputs), -1)
    for number in (1, 2):
        y = u @ parameters[f"linear{number}.weight"].T + parameters[f"linear{number}.bias"]
        mean, variance = (parameters[f"norm{number}.running_{name}"] for name in ("mean", "var"))
        if number in by_batch:
            mean, variance = y.mean(0), y.var(0)
        if note is not None:
            note |= {f"norm{number}.running_mean": mean, f"norm{number}.running_var": y.var(0, ddof=1)}
        normalized = (y - mean) / np.sqrt(variance + 1e-5)
        u = np.maximum(parameters[f"norm{number}.weight"] * normalized + parameters[f"norm{number}.bias"], 0)
    return u @ parameters["output.weight"].T + parameters["output.bias"]


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]


def test_the_study_trains() -> None:
    rows = gap(seed=0, steps=20, batch_sizes=[64])
    assert rows["loss"].max() < 2.0
    assert set(rows["layer"]) == {"all layers", "norm1", "norm2", "norm3", "norm4"}
    assert rows.equals(gap(seed=0, steps=20, batch_sizes=[64]))


def test_the_nets() -> None:
    assert NETS["batches of 64"] == base(QUICK, norm="batch", net="batches of 64")
    assert [config.batch_size for config in NETS.values()] == [4, 16, 64, 256]
