"""C09 on tables for which the verdict is known, in both directions, and its distance against an integral."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from ics.claims import BUDGETS, CLAIMS, Evidence, weigh
from ics.claims.c09_lp_norms import distance_to_unit_normal
from tests.analysis.synthetic import activation_row
from tests.claims.made_up import SEEDS, diverging, losses, named

LP = ("l1 norm", "l2 norm", "l-infinity norm")
QUANTILES = (np.arange(400) + 0.5) / 400
NEARLY_NORMAL, PEAKED = stats.t(30).ppf(QUANTILES), stats.laplace.ppf(QUANTILES)


def activations(net: str, shape: np.ndarray, variance: float) -> list[dict[str, object]]:
    """Three channels of one shape and of a mean variance; the second is wider and the third narrower."""
    rows: list[dict[str, object]] = []
    for seed in SEEDS:
        one = (shape / shape.std() * math.sqrt(variance) * (1 + 0.01 * seed))[:, None]
        values = one * np.array([1.0, 1.5, 0.5])
        for layer, step in (("linear1", 0), ("linear1", 20), ("linear2", 0), ("linear2", 20)):
            keys = {"net": net, "seed": seed, "step": step, "layer": layer, "layer_index": int(layer[-1])}
            for site in ("preactivation", "scaled", "activation"):
                rows.append(activation_row(values if site == "scaled" else 3 * values, site=site, **keys))
    return rows


def tables(rate: float, accuracy: float, shape: np.ndarray, variance: float) -> dict[str, pd.DataFrame]:
    """BatchNorm is nearly normal with variance 1 and learns at the rate 0.06; the lp norms are as given."""
    nets = {"standard": (0.02, 0.8, NEARLY_NORMAL, 1.0), "BatchNorm": (0.06, 0.9, NEARLY_NORMAL, 1.0)}
    nets |= dict.fromkeys(LP, (rate, accuracy, shape, variance))
    steps = [row for net, (r, a, _, _) in nets.items() for row in losses(net, r, test_accuracy=a)]
    rows = [row for net, (_, _, own, v) in nets.items() for row in activations(net, own, v)]
    return {"steps": pd.DataFrame(steps), "activations": pd.DataFrame(rows)}


@pytest.mark.parametrize(
    ("rate", "accuracy", "shape", "variance", "outcome"),
    [
        (0.06, 0.9, PEAKED, 0.2, "supported"),
        (0.08, 0.95, PEAKED, 0.2, "supported"),  # better is as well
        (0.03, 0.8, NEARLY_NORMAL, 1.0, "contradicted"),
        (0.06, 0.9, NEARLY_NORMAL, 0.2, "mixed"),  # as good, and less Gaussian in no shape but in variance
    ],
)
def test_as_good_and_less_gaussian(rate, accuracy, shape, variance, outcome) -> None:
    effects, verdict = weigh(CLAIMS["C09"], Evidence.of_frames(tables(rate, accuracy, shape, variance)))
    assert verdict.outcome == outcome
    assert {effect.setting for effect in effects if effect.measure == "kurtosis"} == {
        "l1, digits",
        "l2, digits",
        "linf, digits",
    }


def test_numbers_by_hand() -> None:
    effects, _ = weigh(CLAIMS["C09"], Evidence.of_frames(tables(0.06, 0.9, PEAKED, 0.2)))

    def distance(variance: float) -> float:
        return float(np.mean([(v - 1 - math.log(v)) / 2 for v in (variance, 2.25 * variance, 0.25 * variance)]))

    kurtosis = stats.kurtosis(PEAKED) / stats.kurtosis(NEARLY_NORMAL)
    assert named(effects, "kurtosis", "l1, digits").numbers[0] == pytest.approx(kurtosis)
    expected = distance(0.2) - distance(1.0)
    assert named(effects, "distance_to_unit_normal", "l1, digits").numbers[0] == pytest.approx(expected)
    assert named(effects, "final_loss", "l1, digits").numbers == pytest.approx([1.0] * 5)


def test_the_distance_is_the_integral() -> None:
    mean, variance = 0.7, 0.3
    one, unit = stats.norm(mean, math.sqrt(variance)), stats.norm()
    by_quadrature, _ = integrate.quad(lambda x: one.pdf(x) * (one.logpdf(x) - unit.logpdf(x)), -10, 10)
    assert distance_to_unit_normal(np.array([mean]), np.array([variance])) == pytest.approx(by_quadrature)
    assert distance_to_unit_normal(np.array([mean, 9.0]), np.array([variance, 0.0])) == pytest.approx(by_quadrature)
    assert math.isnan(distance_to_unit_normal(np.zeros(2), np.zeros(2)))


def test_a_net_that_diverged_does_not_train_as_well() -> None:
    frames = tables(0.06, 0.9, PEAKED, 0.2)
    others = frames["steps"][~frames["steps"]["net"].isin(LP)]
    diverged = [row for net in LP for row in diverging(net, test_accuracy=0.1)]
    frames["steps"] = pd.concat([others, pd.DataFrame(diverged)])
    effects, verdict = weigh(CLAIMS["C09"], Evidence.of_frames(frames))
    assert verdict.outcome == "mixed"
    assert set(named(effects, "kurtosis", "l1, digits").numbers) == {math.inf}


def test_the_deep_linear_net_enters_by_its_loss_where_there_is_time() -> None:
    assert not any("linear" in config.net for config in CLAIMS["C09"].nets(BUDGETS["quick"]))
    linear = [config for config in CLAIMS["C09"].nets(BUDGETS["cpu"]) if config.model == "deep_linear"]
    assert [config.norm for config in linear] == ["none", "batch", "l1", "l2", "linf"]
    frames = tables(0.06, 0.9, PEAKED, 0.2)
    slower = {config.net: 0.01 if config.norm == "linf" else 0.06 for config in linear}
    rows = [row for net, rate in slower.items() for row in losses(net, rate)]
    frames["steps"] = pd.concat([frames["steps"], pd.DataFrame(rows)])
    effects, verdict = weigh(CLAIMS["C09"], Evidence.of_frames(frames, budget="cpu"))
    assert verdict.outcome == "mixed"
    assert named(effects, "final_loss", "linf, linear").estimate.low > 1.25
    assert named(effects, "final_loss", "l1, linear").estimate.center == pytest.approx(1.0)
