"""Effects: pairing by seed, and what becomes of seeds that are missing, infinite or zero."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from ics.claims import Effect, difference, per_seed, ratio, value
from ics.errors import SelectionError, UsageError

INF, NAN = math.inf, math.nan


def numbers(**nets: list[float]) -> pd.Series:
    pairs = {(net, seed): number for net, values in nets.items() for seed, number in enumerate(values)}
    return pd.Series(pairs)


def test_a_ratio_pairs_seeds_not_means() -> None:
    found = ratio(numbers(bn=[1.0, 4.0, 9.0], standard=[2.0, 2.0, 3.0]), "bn", "standard", measure="x", meaning="loss")
    assert found.values == ((0, 0.5), (1, 2.0), (2, 3.0))
    assert (found.scale, found.unit, found.meaning) == ("ratio", "1", "loss, bn / standard")
    assert found.estimate.center == pytest.approx(3 ** (1 / 3))


def test_a_difference_keeps_its_unit() -> None:
    found = difference(numbers(a=[1.0, 5.0], b=[2.0, 2.0]), "a", "b", measure="x", meaning="loss", unit="nat")
    assert (found.values, found.unit, found.meaning) == (((0, -1.0), (1, 3.0)), "nat", "loss, a - b")


def test_a_seed_of_one_net_alone_is_undefined() -> None:
    series = pd.Series({("a", 0): 1.0, ("a", 1): 2.0, ("b", 1): 4.0, ("b", 2): 1.0})
    found = ratio(series, "a", "b", measure="x")
    assert [seed for seed, _ in found.values] == [0, 1, 2]
    assert found.numbers[1] == 0.5
    assert math.isnan(found.numbers[0])
    assert math.isnan(found.numbers[2])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (1.0, 0.0, INF),
        (0.0, 0.0, NAN),
        (INF, 2.0, INF),
        (2.0, INF, 0.0),
        (INF, INF, NAN),
        (NAN, 1.0, NAN),
        (0.0, 1.0, 0.0),
    ],
)
def test_quotients_at_the_edges(a: float, b: float, expected: float) -> None:
    (found,) = ratio(numbers(a=[a], b=[b]), "a", "b", measure="x").numbers
    assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_inf_minus_inf_is_undefined() -> None:
    (found,) = difference(numbers(a=[INF], b=[INF]), "a", "b", measure="x").numbers
    assert math.isnan(found)


def test_the_number_of_one_net() -> None:
    found = value(numbers(a=[1.0, 2.0], b=[5.0, 5.0]), "a", measure="x", meaning="growth")
    assert (found.values, found.meaning) == (((0, 1.0), (1, 2.0)), "growth, a")


def test_mistakes() -> None:
    with pytest.raises(SelectionError, match="did you mean 'standard'"):
        ratio(numbers(bn=[1.0], standard=[1.0]), "bn", "standrd", measure="x")
    with pytest.raises(UsageError, match="needs a name"):
        ratio(numbers(bn=[1.0], standard=[1.0]), "bn", "standard")
    with pytest.raises(UsageError, match="negative"):
        ratio(numbers(bn=[-1.0], standard=[1.0]), "bn", "standard", measure="x")
    with pytest.raises(UsageError, match="one value per seed"):
        Effect(measure="x", meaning="", unit="", scale="value", values=((0, 1.0), (0, 2.0)))


def test_reducing_counts_steps_alike_whatever_their_number_of_layers() -> None:
    frame = pd.DataFrame({"net": "a", "seed": 0, "step": [0, 0, 0, 1], "x": [1.0, 2.0, 9.0, 4.0]})
    assert per_seed(frame, "x")["a", 0] == 3.0  # the mean of the middle two of 2 and 4
    assert per_seed(frame, "x", by=())["a", 0] == 3.0
    assert per_seed(frame, "x", reduce="max")["a", 0] == 9.0
    assert per_seed(frame, "x", by=(), reduce="mean")["a", 0] == 4.0
    assert per_seed(frame, "x", by=(), where=frame["step"] == 1)["a", 0] == 4.0


def test_infinite_values_stay_and_nulls_do_not_count() -> None:
    frame = pd.DataFrame({"net": "a", "seed": [0, 0, 0, 1], "step": [0, 1, 2, 0], "x": [NAN, INF, 5.0, NAN]})
    found = per_seed(frame, "x")
    assert found["a", 0] == INF
    assert math.isnan(found["a", 1])


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(SelectionError, match="shift_l2"):
        per_seed(pd.DataFrame({"net": [], "seed": [], "step": [], "shift_l2": []}), "shift_l3")
