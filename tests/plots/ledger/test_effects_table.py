"""The table of effects: every number once, what a measure is once, and nets whose names hold commas."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from ics.plots.ledger.effects_table import effects_table, parts_of


def row(measure: str, setting: str, meaning: str, center: float, **more: object) -> dict[str, object]:
    numbers = {"center": center, "low": center - 0.125, "high": center + 0.125, "n": 3}
    return {"measure": measure, "setting": setting, "meaning": meaning, "unit": "1", "scale": "ratio"} | numbers | more


ROWS = pd.DataFrame(
    [
        row("shift", "digits", "||dG||, median over steps, BatchNorm / standard", 0.5, vote="supported"),
        row("loss", "digits", "final loss, BatchNorm / standard", 0.25, unit="nat", vote="contradicted"),
        row(
            "shift", "images", "||dG||, median over steps, BatchNorm, images / standard, images", 0.75, vote="supported"
        ),
        row("slope", "standard", "mean slope, standard", 1.5, scale="value"),
    ]
)


@pytest.mark.parametrize(
    ("meaning", "scale", "parts"),
    [
        ("a, b, BN / none", "ratio", (["a", "b", "BN"], 2, " / none")),
        ("a, b, BN, x / none, x", "ratio", (["a", "b", "BN", "x"], 2, " / none, x")),
        ("loss / step, BN - none", "difference", (["loss / step", "BN"], 1, " - none")),
        ("BN / none", "ratio", (["BN"], 0, " / none")),
        ("a / b, BN", "value", (["a / b", "BN"], 2, "")),
        ("", "", ([""], 1, "")),
    ],
)
def test_what_is_compared_is_told_apart_from_what_is_measured(meaning: str, scale: str, parts: object) -> None:
    assert parts_of(meaning, scale) == parts


def test_one_net_with_a_comma_hides_nothing_of_the_measure() -> None:
    html = effects_table(
        pd.DataFrame(
            [row("rate", "a", "largest rate, BN / none", 2.0), row("rate", "b", "largest rate, BN / none, He", 3.0)]
        )
    )
    assert "<strong>rate</strong>: largest rate</td>" in html
    assert "<td>BN / none</td>" in html
    assert "<td>BN / none, He</td>" in html


def test_rows_stand_under_the_measure_they_are_of() -> None:
    html = effects_table(ROWS)
    cells = [part.split("</td>")[0] for part in html.split("<td>")[1:]]
    assert cells == [
        *("digits", "BatchNorm / standard", "0.5", "0.375", "0.625", "supported"),
        *("images", "BatchNorm, images / standard, images", "0.75", "0.625", "0.875", "supported"),
        *("digits", "BatchNorm / standard", "0.25", "0.125", "0.375", "contradicted"),
        *("standard", "–", "1.5", "1.38", "1.62", "–"),
    ]
    headings = [part.split("</td>")[0] for part in html.split('colspan="7">')[1:]]
    assert headings == [
        "<strong>shift</strong>: ||dG||, median over steps",
        "<strong>loss</strong>: final loss (nat)",
        "<strong>slope</strong>: mean slope, standard",
    ]


def test_what_was_not_measured_has_a_row_without_numbers() -> None:
    missing = {"measure": "edge", "vote": "inconclusive", "center": math.nan, "low": math.nan, "high": math.nan}
    html = effects_table(pd.concat([ROWS, pd.DataFrame([missing])], ignore_index=True))
    assert "<strong>edge</strong></td>" in html
    assert html.endswith(
        '<td>–</td><td>–</td><td>–</td><td>–</td><td>–</td><td class="number">–</td>'
        "<td>inconclusive</td></tr></tbody></table></div>"
    )
