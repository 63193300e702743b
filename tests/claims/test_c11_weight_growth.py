"""C11 on tables for which the verdict is known, and its measures of weights against arithmetic by hand."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ics.claims import BUDGETS, CLAIMS, Evidence, base, weigh
from ics.claims.c11_weight_growth import followed, norm_changes, weight_measures
from ics.claims.method.runs import changed
from ics.experiments import recipe
from ics.experiments.training.experiment import prepare

SUFFIXES = ("", ", weight decay 0.01", ", 10 x learning rate")
SEEDS = range(4)


def places() -> list[tuple[str, int, bool]]:
    return [
        (norm + suffix, seed, norm == "BatchNorm")
        for norm in ("standard", "BatchNorm")
        for suffix in SUFFIXES
        for seed in SEEDS
    ]


def gradients(factor: float, *, sign: int = 1) -> pd.DataFrame:
    """ln ||W|| moves by 0.3 in the standard net, by `factor` times that in the other; all else grows a hundredfold."""
    rows = []
    for net, seed, normed in places():
        change = sign * 0.3 * (1 + 0.02 * seed) * (factor * (1 + 0.01 * seed) if normed else 1)
        for step, (index, layer) in product((0, 100), enumerate(("linear1", "linear2", "output"))):
            hidden = math.exp(change * step / 100)
            for of, norm in (
                (f"{layer}.weight", hidden if index < 2 else 1.0 + step),
                (f"{layer}.bias", 1.0 + step),
                (f"norm{index}.weight", 1.0 + step),
            ):
                rows.append(
                    {
                        "net": net,
                        "seed": seed,
                        "step": step,
                        "layer": layer,
                        "layer_index": index,
                        "of": of,
                        "kind": "parameter",
                        "parameter_norm": norm,
                    }
                )
    return pd.DataFrame(rows)


def weights(factor: float, radial: float) -> dict[str, pd.DataFrame]:
    rows = [
        {
            "net": net,
            "seed": seed,
            "step": step,
            "layer": layer,
            "radial_share": (radial if normed else 0.2) * (1 + 0.02 * seed),
            "largest_unit_change": 0.01 * step * (factor if normed else 1) * (1 + 0.02 * seed * normed),
            "heaviest": 3.0 * (1 + 0.01 * step * (factor if normed else 1) * (1 + 0.02 * seed * normed)),
        }
        for (net, seed, normed), step, layer in product(places(), (0, 100), ("linear1", "linear2"))
    ]
    return {"weights": pd.DataFrame(rows)}


def judged(factor: float, radial: float, **words: int):
    found = Evidence.of_frames({"gradients": gradients(factor, **words)}, studies=weights(factor, radial))
    return weigh(CLAIMS["C11"], found)


@pytest.mark.parametrize(
    ("factor", "radial", "outcome"),
    [(0.4, 0.001, "supported"), (2.5, 0.2, "contradicted"), (2.5, 0.001, "mixed"), (0.4, 0.2, "mixed")],
)
def test_weights_grow_less_or_more(factor: float, radial: float, outcome: str) -> None:
    assert judged(factor, radial)[1].outcome == outcome


def test_shrinking_is_a_change_as_growing_is() -> None:
    effects, verdict = judged(0.4, 0.001, sign=-1)
    assert verdict.outcome == "supported"
    first = {(effect.measure, effect.setting): effect for effect in effects}
    assert first["norm_change", "digits"].numbers == pytest.approx([0.4 * (1 + 0.01 * seed) for seed in SEEDS])
    assert first["norm_growth", "standard"].numbers[0] == pytest.approx(math.exp(-0.3))
    assert first["effective_rate", "digits"].numbers[0] == pytest.approx(math.exp(2 * 0.4 * 0.3))
    assert first["heaviest_weight", "digits"].numbers[0] == pytest.approx((1 + 0.4) / 2)


def test_noise_and_one_seed_decide_nothing() -> None:
    rng = np.random.default_rng(0)
    rows = gradients(1.0)
    rows["parameter_norm"] *= np.exp(rng.normal(scale=0.3, size=len(rows)))
    noisy = Evidence.of_frames({"gradients": rows}, studies=weights(0.4, 0.001))
    assert weigh(CLAIMS["C11"], noisy)[1].outcome == "inconclusive"
    one = {"gradients": gradients(0.4).query("seed == 0")}
    studies = {"weights": weights(0.4, 0.001)["weights"].query("seed == 0")}
    assert weigh(CLAIMS["C11"], Evidence.of_frames(one, studies=studies))[1].outcome == "inconclusive"


def test_weights_that_overflow_have_grown_without_bound() -> None:
    rows = gradients(0.4).query("net == 'standard' and seed == 0")
    rows.loc[rows["step"] == 100, "parameter_norm"] = np.nan
    found = norm_changes(rows)
    assert found["layer"].tolist() == ["linear1", "linear2"]
    assert (found["size"] == math.inf).all()
    assert (found["rate"] == 0).all()


def test_measures_of_weights_by_hand() -> None:
    module = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
    module.weight.grad = torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.float64)
    found = weight_measures(module, torch.tensor([5.0, 4.0], dtype=torch.float64))
    # Along its unit the first gradient has 25 / 5, the second nothing; ||G||^2 = 25 + 4. The second unit was 4 long.
    assert found["radial_share"] == pytest.approx(5 / math.sqrt(29))
    assert found["largest_unit_change"] == pytest.approx(math.log(4))
    assert found["heaviest"] == pytest.approx(4 / math.sqrt(26 / 4))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_training_is_followed_as_it_goes(norm: str) -> None:
    config = recipe("digits-mlp", norm=norm, hidden=(6, 5), steps=3, dtype="float64", device="cpu", instruments={})
    frame = followed(seed=3, configs=[{"net": "a", **changed(config)}], num_measurements=3)
    assert frame[["net", "step", "layer"]].to_numpy().tolist() == [
        ["a", step, layer] for step, layer in product(range(3), ("linear1", "linear2"))
    ]
    experiment = prepare(config.replace(seed=3))
    weight = experiment.model.get_parameter("linear2.weight")
    start = weight.detach().numpy().copy()
    for step, batch in enumerate(experiment.batches()):
        named = dict(experiment.model.named_parameters())
        found = torch.autograd.grad(experiment.loss_fn(experiment.model, batch), list(named.values()))
        grads = dict(zip(named, found, strict=True))
        w, g = weight.detach().numpy(), grads["linear2.weight"].numpy()
        lengths = np.linalg.norm(w, axis=1)
        row = frame[(frame["step"] == step) & (frame["layer"] == "linear2")].iloc[0]
        radial = np.linalg.norm(np.einsum("ij,ij->i", w, g) / lengths) / np.linalg.norm(g)
        assert row["radial_share"] == pytest.approx(radial, rel=1e-9)
        change = np.abs(np.log(lengths / np.linalg.norm(start, axis=1))).max()
        assert row["largest_unit_change"] == pytest.approx(change, rel=1e-9, abs=1e-15)
        assert row["heaviest"] == pytest.approx(np.abs(w).max() / np.sqrt((w**2).mean()), rel=1e-9)
        with torch.no_grad():
            for name, parameter in named.items():
                parameter -= config.learning_rate * grads[name]
    # In front of BatchNorm the loss depends on directions alone, up to eps.
    assert (frame["radial_share"].max() < 1e-3) == (norm == "batch")


def test_the_plain_nets_are_shared_ones() -> None:
    configs = CLAIMS["C11"].nets(BUDGETS["quick"])
    assert configs[:2] == (base(BUDGETS["quick"]), base(BUDGETS["quick"], norm="batch"))
    assert [config.weight_decay for config in configs] == [0, 0, 0.01, 0.01, 0, 0]
    assert [config.learning_rate for config in configs] == pytest.approx([0.1] * 4 + [1.0] * 2)
