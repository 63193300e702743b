"""The loss against its tangent plane, on quadratics and on a line that overflows."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from ics.claims.measures.taylor_error import at_learning_rate, departure_at, departures


def quadratic_line(etas: list[float], *, bend: float, slope: float = 2.0, rate: float = 0.1) -> pd.DataFrame:
    """L(d) = 3 - slope d + bend d^2 / 2 along a line, as gradient_line records it."""
    rows = []
    for eta in [0.0, *etas]:
        distance = eta * slope
        predicted = -slope * distance
        rest = bend * distance**2 / 2
        rows.append(
            {"net": "a", "seed": 0, "step": 5, "direction": "gradient", "draw": 0, "eta": eta, "learning_rate": rate}
            | {"distance": distance, "loss": 3.0 + predicted + rest, "predicted_change": predicted}
            | {"gradient_norm": slope, "taylor_error": rest / abs(predicted) if predicted else math.nan}
        )
    return pd.DataFrame(rows)


def test_the_error_at_the_learning_rate_is_that_of_the_nearest_probe() -> None:
    # Nearest by ratio: 0.06 is 1.67 times away, 0.15 only 1.5 times. Error: bend d / (2 slope), d = 0.15 * 2.
    nearest = at_learning_rate(quadratic_line([0.06, 0.15, 0.4], bend=4.0))
    assert nearest["eta"].tolist() == [0.15]
    assert nearest["error"].tolist() == pytest.approx([4.0 * 0.3 / (2 * 2.0)])


def test_a_loss_that_overflows_is_an_infinite_error_and_an_undefined_one_stays_so() -> None:
    line = quadratic_line([0.1, 0.2], bend=4.0)
    line.loc[line["eta"] == 0.1, ["loss", "taylor_error"]] = math.nan
    assert at_learning_rate(line)["error"].tolist() == [math.inf]
    below_resolution = quadratic_line([0.1], bend=4.0).assign(taylor_error=math.nan)
    assert at_learning_rate(below_resolution)["error"].isna().all()


@pytest.mark.parametrize("distance", [0.01, 0.2, 0.37, 0.8])
def test_departures_of_a_quadratic_are_exact_also_between_and_before_probes(distance: float) -> None:
    rows = departures(quadratic_line([0.1, 0.2, 0.4], bend=6.0))
    assert rows["departure"].tolist() == pytest.approx([3.0 * distance**2 for distance in (0.2, 0.4, 0.8)])
    assert departure_at(rows, distance) == pytest.approx(3.0 * distance**2)


def test_bending_down_departs_as_far_as_bending_up() -> None:
    assert departure_at(departures(quadratic_line([0.1], bend=-6.0)), 0.2) == pytest.approx(3.0 * 0.04)


def test_beyond_an_overflow_nothing_is_known_to_be_small() -> None:
    line = quadratic_line([0.1, 0.2, 0.4], bend=6.0)
    line.loc[line["eta"] == 0.2, "loss"] = math.inf
    rows = departures(line)
    assert departure_at(rows, 0.2) == pytest.approx(3.0 * 0.04)
    assert departure_at(rows, 0.3) == math.inf
    assert departure_at(rows, 0.8) == math.inf


def test_a_line_of_no_length_has_no_departure() -> None:
    rows = departures(quadratic_line([0.1], bend=6.0, slope=0.0))
    assert math.isnan(departure_at(rows, 0.0))
