"""C23 on tables for which the verdict is known, and its study against polynomials and the training variant itself."""

from __future__ import annotations

import math
from itertools import product

import pandas as pd
import pytest
import torch
from torch import nn

from ics.claims import BUDGETS, CLAIMS, Evidence, base, weigh
from ics.claims.method.runs import changed
from ics.claims.studies.held_back_steps import HELD, SHORTER, WHOLE, interaction, steps_held_back, three_steps
from ics.experiments.nets.layers import layers_in_order
from ics.experiments.training.experiment import prepare

SEEDS = range(4)
NETS = {"": 1.0, ", one layer changes signs": None, ", one layer moves": 0.2}
STANDARD = ("standard", "standard, Adam")


def tables(factor: float) -> dict[str, pd.DataFrame]:
    shifts, lines, steps = [], [], []
    for standard, (suffix, own), seed in product(STANDARD, NETS.items(), SEEDS):
        size = (factor if own is None else own) * (1 + 0.01 * seed)
        identity = {"net": standard + suffix, "seed": seed}
        for layer in range(3):
            row = {"step": 0, "layer": f"linear{layer}", "layer_index": layer, "parameters": "weight"}
            shifts.append(identity | row | {"shift_relative": 0.0 if layer == 0 else size})
        for eta in (0.0, 0.05, 0.1, 0.2):
            row = {"step": 0, "layer": "(all)", "direction": "update", "draw": 0, "eta": eta, "learning_rate": 0.1}
            error = {0.0: math.nan, 0.1: size}.get(eta, 99.0)
            lines.append(identity | row | {"loss": 1.0, "taylor_error": error})
        signs = {"sign_changes_proposed": 10.0, "sign_changes_made": 4.0} if suffix else {}
        steps += [identity | {"step": step, "loss": 1.0} | signs for step in range(3)]
    return {"gradient_shift": pd.DataFrame(shifts), "gradient_line": pd.DataFrame(lines), "steps": pd.DataFrame(steps)}


def one_step(held: float, shorter: float) -> dict[str, pd.DataFrame]:
    size = {WHOLE: 1.0, HELD: held, SHORTER: shorter}
    rows = [
        {"net": way, "seed": seed, "step": step, "length": 1.0, "sign_changes": 3}
        | {"interaction": interaction * (1 + 0.01 * seed)}
        for (way, interaction), seed, step in product(size.items(), SEEDS, range(3))
    ]
    return {"digits": pd.DataFrame(rows), "digits, Adam": pd.DataFrame(rows)}


@pytest.mark.parametrize(
    ("factor", "held", "shorter", "outcome"),
    [
        (0.5, 0.5, 1.0, "supported"),
        (1.0, 1.0, 1.0, "contradicted"),
        (0.5, 0.5, 0.5, "mixed"),  # no more than a shorter step does
        (1.0, 0.5, 1.0, "mixed"),
    ],
)
def test_tamed_or_not(factor: float, held: float, shorter: float, outcome: str) -> None:
    effects, verdict = weigh(CLAIMS["C23"], Evidence.of_frames(tables(factor), studies=one_step(held, shorter)))
    assert verdict.outcome == outcome
    found = {effect.measure: effect.estimate.center for effect in effects}
    assert found["shift_relative"] == pytest.approx(factor)
    assert found["taylor_error"] == pytest.approx(factor)
    assert found["taylor_error_one_layer_moves"] == pytest.approx(0.2)
    assert found["interaction_at_equal_length"] == pytest.approx(held / shorter)
    assert found["share_of_sign_changes"] == pytest.approx(0.4)


def test_the_paper_budget_has_lines_of_the_digits_net_alone() -> None:
    def in_paper(name: str) -> str:
        return name if "Adam" in name else name.replace("standard", "standard, images")

    renamed = {name: rows.assign(net=rows["net"].map(in_paper)) for name, rows in tables(0.5).items()}
    lines = renamed["gradient_line"]
    renamed["gradient_line"] = lines[lines["net"].str.contains("Adam")]
    found = Evidence.of_frames(renamed, studies=one_step(0.5, 1.0), budget="paper")
    assert weigh(CLAIMS["C23"], found)[1].outcome == "supported"


class Product(nn.Module):
    """y = w_2 w_1 x: a chain of two single weights."""

    def __init__(self, first: float, second: float) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.one.weight.fill_(first)
            self.two.weight.fill_(second)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x))


def output(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return model(batch[0]).sum()


BATCH = (torch.ones(1, 1, dtype=torch.float64), torch.zeros(1))


def test_interaction_of_a_product() -> None:
    model = Product(2.0, 3.0)
    layers = layers_in_order(model, BATCH[0])
    moves = {"one.weight": torch.full((1, 1), 0.1).double(), "two.weight": torch.full((1, 1), -0.2).double()}
    # (2 + a)(3 + b) - 6 - 3a - 2b = ab, and g.d = 3a + 2b.
    found = interaction(model, output, BATCH, moves=moves, layers=layers, promised=3 * 0.1 - 2 * 0.2)
    assert found == pytest.approx(0.1 * 0.2 / 0.1)
    assert [model.one.weight.item(), model.two.weight.item()] == [2.0, 3.0]
    alone = {"one.weight": moves["one.weight"]}
    assert interaction(model, output, BATCH, moves=alone, layers=layers, promised=0.3) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(interaction(model, output, BATCH, moves=alone, layers=layers, promised=0.0))
    moves["one.weight"] = torch.full((1, 1), math.inf).double()
    assert interaction(model, output, BATCH, moves=moves, layers=layers, promised=1.0) == math.inf


def test_three_steps_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    layers = layers_in_order(model, torch.zeros(1, 2))
    before = {
        "0.weight": torch.tensor([[1.0, -1.0], [0.1, 0.2]]),
        "0.bias": torch.tensor([0.1, 1.0]),
        "1.weight": torch.tensor([[0.1, 5.0]]),
        "1.bias": torch.tensor([0.1]),
    }
    proposed = {
        "0.weight": torch.tensor([[0.5, 0.5], [-0.5, -0.5]]),  # two cross zero
        "0.bias": torch.tensor([-0.5, 0.0]),  # a bias that crosses is not asked
        "1.weight": torch.tensor([[-0.5, 1.0]]),  # one crosses, and is held
        "1.bias": torch.tensor([-0.5]),
    }
    ways = three_steps(before, proposed, layers)
    assert ways[WHOLE] == proposed
    held = ways[HELD]
    assert held["1.weight"].tolist() == [[0.0, 1.0]]
    assert all(torch.equal(held[name], proposed[name]) for name in ("0.weight", "0.bias", "1.bias"))
    whole, short = (sum(float(move.square().sum()) for move in ways[way].values()) for way in (WHOLE, HELD))
    share = (short / whole) ** 0.5
    torch.testing.assert_close(ways[SHORTER]["1.weight"], torch.tensor([[-0.5, 1.0]]) * share)


PLAIN = {"instruments": {}, "options": {}, "evaluate_every": 0, "dtype": "float64", "hidden": (6, 5), "steps": 5}


def test_a_held_step_is_that_of_the_training_variant() -> None:
    config = base(BUDGETS["quick"], learning_rate=2.0, **PLAIN)
    plain, limited = prepare(config), prepare(config.replace(one_layer_per_step="sign"))
    batch = next(plain.batches())
    before = {name: parameter.detach().clone() for name, parameter in plain.model.named_parameters()}
    for experiment in (plain, limited):
        experiment.loss_fn(experiment.model, batch).backward()
        experiment.optimizer.step()
    proposed = {name: parameter.detach() - before[name] for name, parameter in plain.model.named_parameters()}
    held = three_steps(before, proposed, layers_in_order(plain.model, batch[0]))[HELD]
    assert any(not torch.equal(held[name], proposed[name]) for name in held)
    for name, parameter in limited.model.named_parameters():
        torch.testing.assert_close(before[name] + held[name], parameter.detach(), rtol=0, atol=1e-14)


def test_looking_does_not_change_the_training() -> None:
    config = base(BUDGETS["quick"], **PLAIN)
    every, last = (steps_held_back(seed=0, config=changed(config), every=number) for number in (1, 4))
    assert every["step"].tolist() == [step for step in range(5) for _ in range(3)]
    same = every[every["step"] == 4].reset_index(drop=True)
    pd.testing.assert_frame_equal(last[last["step"] == 4].reset_index(drop=True), same, check_exact=True)
    assert (every["interaction"] > 0).all()
