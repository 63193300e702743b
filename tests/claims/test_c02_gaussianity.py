"""C02 on made-up studies for which the verdict is known, in both directions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ics.claims import BUDGETS
from ics.claims.c01_shape_drift import C01
from ics.claims.c02_gaussianity import C02
from tests.claims.shape_studies import SETTINGS, STATES, study, weighed

GAUSSIAN = {"density": 2.0, "pooled_density": 2.0}
LESS_GAUSSIAN = dict.fromkeys((*STATES, *(f"pooled_{name}" for name in STATES)), 2.0) | dict.fromkeys(GAUSSIAN, 0.5)


@pytest.mark.parametrize(
    ("factor", "outcome"),
    [
        (GAUSSIAN, "supported"),
        (LESS_GAUSSIAN, "contradicted"),
        (GAUSSIAN | {"pooled_ks": 2.0}, "mixed"),
        (GAUSSIAN | {"density": 1.0}, "mixed"),
    ],
)
def test_more_gaussian_or_less(factor: dict[str, float], outcome: str) -> None:
    effects, verdict = weighed(C02, study(factor))
    assert verdict.outcome == outcome
    assert len([effect for effect in effects if effect.scale == "ratio"]) == 2 * 8
    ks = next(effect for effect in effects if effect.measure == "pooled_ks")
    assert ks.numbers[0] == pytest.approx(factor.get("pooled_ks", 0.5))


def test_one_seed_does_not_make_it_gaussian() -> None:
    assert weighed(C02, study(GAUSSIAN, seeds=1))[1].outcome == "inconclusive"


def test_the_same_studies_serve_both(tmp_path: Path) -> None:
    with_images = replace(BUDGETS["cpu"], images=tmp_path)
    for budget in (*BUDGETS.values(), with_images):
        assert C01.studies(budget) == C02.studies(budget)
    assert [one.name for one in C01.studies(with_images)] == [*SETTINGS, "images"]
    assert [one.settings.get("activation", "relu") for one in C01.studies(BUDGETS["quick"])] == ["relu", "tanh"]
