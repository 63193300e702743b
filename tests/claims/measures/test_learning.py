"""What counts as learnt, and the three comparisons, against arithmetic by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from ics.claims import BUDGETS, Evidence
from ics.claims.measures.learning import Pair, compared, level, of_net, steps_taken
from tests.claims.made_up import losses, named


def test_what_counts_as_learnt() -> None:
    assert level(BUDGETS["quick"], "digits") == pytest.approx(math.log(10) / 4)
    assert level(BUDGETS["cpu"], "images") == pytest.approx(0.75 * math.log(10))
    assert level(BUDGETS["paper"], "images") == pytest.approx(math.log(10) / 4)


def test_steps_are_counted_from_one() -> None:
    rows = pd.DataFrame({"net": "a", "seed": [0, 0, 1], "step": [0, 1, 0], "loss": [0.5, 0.4, 2.0]})
    taken = steps_taken(Evidence.of_frames({"steps": rows}), 0.5)
    assert taken.to_dict() == {("a", 0): 1.0, ("a", 1): math.inf}


def test_a_pair_that_never_gets_there_is_undefined() -> None:
    rows = [*losses("a", 0.0, test_accuracy=0.1), *losses("b", 0.0, test_accuracy=0.2)]
    found = Evidence.of_frames({"steps": pd.DataFrame(rows)})
    effects = compared(found, [Pair("a", "b", "digits", "digits")])
    assert all(math.isnan(number) for number in named(effects, "steps").numbers)
    assert named(effects, "test_accuracy").numbers[0] == pytest.approx(-0.1)
    assert named(effects, "final_loss").numbers == pytest.approx([1.0] * 5)


def test_numbers_of_one_net() -> None:
    numbers = pd.Series({("a", 0): 1.0, ("b", 0): 2.0}).rename_axis(["net", "seed"])
    assert of_net(numbers, "b").to_dict() == {0: 2.0}
    assert of_net(numbers, "c").empty
