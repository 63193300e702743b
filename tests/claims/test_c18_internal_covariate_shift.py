"""C18 on tables for which the verdict is known, in both directions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from ics.claims import Evidence, weigh
from ics.claims.c18_internal_covariate_shift import C18, shifts
from tests.claims.shift_tables import SEEDS, recorded

SMALL, LARGE = {"cosine": 0.99, "relative": 0.2}, {"cosine": 0.8, "relative": 0.7}


@pytest.mark.parametrize(
    ("standard", "batch_norm", "outcome"), [(LARGE, SMALL, "supported"), (SMALL, LARGE, "contradicted")]
)
def test_less_or_more_shift(standard, batch_norm, outcome: str) -> None:
    tables = recorded({"standard": standard, "BatchNorm": batch_norm})
    effects, verdict = weigh(C18, Evidence.of_frames(tables))
    assert verdict.outcome == outcome
    found = {effect.measure: effect for effect in effects}
    assert found["shift_relative"].estimate.center == pytest.approx(batch_norm["relative"] / standard["relative"])
    angles = [math.degrees(math.acos(each["cosine"])) for each in (batch_norm, standard)]
    assert found["shift_angle"].estimate.center == pytest.approx(angles[0] / angles[1])
    assert found["shift_over_floor"].numbers == pytest.approx(found["shift_l2"].numbers)
    for measure in ("shift_relative", "shift_angle", "shift_over_floor"):
        assert found[f"{measure}_at_equal_loss"].numbers == pytest.approx(found[measure].numbers)


def test_another_length_in_the_same_direction_is_mixed() -> None:
    tables = recorded({"standard": {"cosine": 0.9, "relative": 0.9}, "BatchNorm": {"cosine": 0.8, "relative": 0.7}})
    assert weigh(C18, Evidence.of_frames(tables))[1].outcome == "mixed"


def test_noise_leaves_it_open() -> None:
    rng = np.random.default_rng(0)
    tables = recorded({"standard": LARGE, "BatchNorm": LARGE})
    rows = tables["gradient_shift"]
    seeds = rng.lognormal(sigma=0.5, size=len(SEEDS))
    factor = np.where(rows["net"] == "BatchNorm", seeds[rows["seed"]], 1.0)
    noisy = rows.assign(shift_relative=rows["shift_relative"] * factor)
    assert weigh(C18, Evidence.of_frames(tables | {"gradient_shift": noisy}))[1].outcome == "inconclusive"


def test_a_net_that_diverged_shifted_without_bound() -> None:
    tables = recorded({"standard": LARGE, "BatchNorm": SMALL})
    steps = tables["steps"]
    steps.loc[steps["net"].str.startswith("BatchNorm") & (steps["step"] == 10), "loss"] = math.nan
    effects, verdict = weigh(C18, Evidence.of_frames(tables))
    at_equal_steps = [effect for effect in effects if effect.scale == "ratio" and "loss" not in effect.measure]
    assert {effect.numbers for effect in at_equal_steps} == {(math.inf,) * 4}
    assert verdict.outcome != "supported"


def test_a_net_at_rest_shifts_little_and_at_equal_loss_it_does_not() -> None:
    # The standard net rests at loss 2 until step 40, where it shifts a tenth as much as when it learns.
    tables = recorded({"standard": SMALL, "BatchNorm": SMALL})
    shift, steps = tables["gradient_shift"], tables["steps"]
    is_plain = lambda rows: rows["net"].str.startswith("standard")  # noqa: E731
    resting = [shift[is_plain(shift) & (shift["step"] == 0)].assign(step=step) for step in (1, 2, 3)]
    rested = pd.concat([shift, *resting], ignore_index=True)
    at_rest = is_plain(rested) & (rested["step"] < 10)
    rested.loc[at_rest, "shift_relative"] = 0.1 * rested["shift_relative"]
    losses = pd.concat([steps, *(steps[is_plain(steps) & (steps["step"] == 0)].assign(step=s) for s in (1, 2, 3))])
    effects, _ = weigh(C18, Evidence.of_frames({"gradient_shift": rested, "steps": losses}))
    found = {effect.measure: effect.estimate.center for effect in effects}
    assert found["shift_relative"] == pytest.approx(10.0, rel=1e-3)
    assert 1.0 < found["shift_relative_at_equal_loss"] < 10**0.55


def test_one_seed_decides_nothing() -> None:
    tables = recorded({"standard": LARGE, "BatchNorm": SMALL})
    alone = {name: rows[rows["seed"] == 0] for name, rows in tables.items()}
    assert weigh(C18, Evidence.of_frames(alone))[1].outcome == "inconclusive"


def test_angles_keep_their_digits_where_the_cosine_has_none() -> None:
    angle = 1e-6
    tables = recorded({"a": SMALL})["gradient_shift"].query("layer_index < 2").assign(run="a")
    turned = tables.assign(
        gradient_norm=1.0, shifted_gradient_norm=1.0, shift_l2=2 * math.sin(angle / 2), shift_cosine=math.cos(angle)
    )
    assert shifts(turned)["shift_angle"].tolist() == pytest.approx([math.degrees(angle)] * (len(turned) // 2), rel=1e-6)
    opposite = tables.assign(gradient_norm=1.0, shifted_gradient_norm=1.0, shift_l2=2.0, shift_cosine=-1.0)
    assert shifts(opposite)["shift_angle"].tolist() == pytest.approx([180.0] * (len(turned) // 2))
    nothing = tables.assign(shifted_gradient_norm=0.0, shift_cosine=math.nan)
    assert shifts(nothing)["shift_angle"].isna().all()
