"""The page of the ledger and its forest plot draw exactly the effects they are given."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from ics.errors import UsageError
from ics.plots.ledger.forest import VOTES, forest
from ics.plots.ledger.markdown import write_ledger_markdown
from ics.plots.ledger.page import write_ledger


def effect(
    measure: str, scale: str, center: float, low: float, high: float, vote: str | None = None
) -> dict[str, object]:
    row = {"id": "C21", "measure": measure, "scale": scale, "center": center, "low": low, "high": high, "n": 3}
    row |= {"setting": "", "unit": "1", "meaning": f"what {measure} is"}
    if vote is not None:
        row |= {
            "criterion": f"{measure} < 0.9",
            "why": "a reason",
            "region_low": -math.inf,
            "region_high": 0.9,
            "vote": vote,
        }
    return row


EFFECTS = pd.DataFrame(
    [
        effect("beta", "ratio", 0.5, 0.4, 0.6, "supported"),
        effect("range", "ratio", 2.0, 1.5, 3.0, "contradicted"),
        effect("edge", "value", 1.0, 0.9, 1.1),
        effect("lost", "ratio", math.inf, 2.0, math.inf, "inconclusive"),
    ]
)


def test_every_interval_is_drawn_where_it_lies_in_the_colour_of_its_vote() -> None:
    figure = forest(EFFECTS)
    ratios, edge = figure.axes
    assert ratios.get_xscale() == "log"
    lines = {line.get_gid(): line for line in ratios.lines if line.get_gid()}
    assert lines["interval-0"].get_xdata().tolist() == [0.4, 0.6]
    assert lines["interval-1"].get_xdata().tolist() == [1.5, 3.0]
    assert [lines[f"interval-{place}"].get_color() for place in range(3)] == list(VOTES.values())
    # An end that is infinite stops at the edge of the axes.
    assert lines["interval-2"].get_xdata()[1] == pytest.approx(ratios.get_xlim()[1])
    assert [label.get_text() for label in edge.get_yticklabels()] == ["edge (n = 3)"]


@pytest.mark.parametrize(("low", "high"), [(0.97, 1.04), (0.8, 1.7), (0.05, 20.0), (1e-5, 3.0)])
def test_ratios_have_plain_numbers_on_their_axis(low: float, high: float) -> None:
    figure = forest(pd.DataFrame([effect("beta", "ratio", math.sqrt(low * high), low, high)]))
    figure.draw_without_rendering()
    left, right = figure.axes[0].get_xlim()
    places = [place for place in figure.axes[0].get_xticks() if left <= place <= right]
    assert len(places) >= 3
    shown = {label.get_text() for label in figure.axes[0].get_xticklabels()}
    assert {f"{place:g}" for place in places} <= shown


def test_effects_without_an_estimate_leave_an_empty_figure() -> None:
    assert not forest(EFFECTS.assign(center=math.nan)).axes[0].lines


OVERVIEW = pd.DataFrame(
    {
        "id": ["C21", "C22"],
        "title": ["BN smooths", "Noise"],
        "sentence": ["BN smooths <the> loss.", "Noise does not hurt."],
        "source": ["somebody", "somebody else"],
        "verdict": ["mixed", "not run yet"],
        "budget": ["quick", None],
        "seeds": pd.array([3, None], dtype="Int64"),
        "needs": pd.array([12, None], dtype="Int64"),
        "reason": ["because", None],
    }
)
_TEXTS = {
    "published": "smaller",
    "remark": "read with care",
    "nets": ["a: mlp"],
    "studies": [],
    "notes": "lost at step 8 | lost at step 12 | two",
}
DETAILS = pd.DataFrame([{"id": "C21", **_TEXTS, "command": "ics claims run C21", "made": "today"}])


def test_the_page_holds_every_claim_and_every_number(tmp_path: Path) -> None:
    html = write_ledger(OVERVIEW, DETAILS, EFFECTS, tmp_path / "new" / "claims.html").read_text()
    assert "2 claims: 1 mixed; 1 without a verdict." in html
    assert "BN smooths &lt;the&gt; loss." in html
    assert html.count('href="#C21"') == 1
    assert 'id="C22"' not in html
    for part in (
        "holds if beta &lt; 0.9, range &lt; 0.9 and lost &lt; 0.9: a reason",
        "what range is",
        "Published: smaller",
        "about 12 seeds would settle what is open",
        "1\N{NO-BREAK SPACE}✓\N{NO-BREAK SPACE}1\N{NO-BREAK SPACE}✗\N{NO-BREAK SPACE}1\N{NO-BREAK SPACE}?",
        "What was run: 1 net, each with every seed",
        "a: mlp",
        "Beside these, without a vote:",
        "<li>lost at step 8 (1 more with other numbers)</li><li>two</li>",
    ):
        assert part in html
    assert "http" not in html.split("</style>")[1].replace("http://www.w3.org", "")
    with pytest.raises(UsageError, match=r"claims\.html"):
        write_ledger(OVERVIEW, DETAILS, EFFECTS, tmp_path)


_VOTES = "1 ✓ 1 ✗ 1 ?".replace(" ", "\N{NO-BREAK SPACE}")


def test_the_markdown_page_holds_the_same(tmp_path: Path) -> None:
    text = write_ledger_markdown(OVERVIEW, DETAILS, EFFECTS, tmp_path / "new" / "verdicts.md").read_text()
    lines = text.splitlines()
    for line in (
        "2 claims: 1 mixed; 1 without a verdict.",
        f"| [C21](#c21) | BN smooths &lt;the> loss. | ± mixed | {_VOTES} | quick | 3 |  |",
        "| C22 | Noise does not hurt. | not run yet |  |  |  |  |",
        "## C21",
        "- holds if beta &lt; 0.9, range &lt; 0.9 and lost &lt; 0.9: a reason",
        "| beta |  | 0.5 | 0.4 to 0.6 | 3 | &lt; 0.9 | supported |",
        "| lost |  | infinite | 2 to infinite | 3 | &lt; 0.9 | inconclusive |",
        "| edge |  | 1 | 0.9 to 1.1 | 3 |  |  |",
        "- `range`: what range is",
        "Published: smaller",
        "- lost at step 8 (1 more with other numbers)",
        "`ics claims run C21`: today. Nets and studies: a: mlp.",
    ):
        assert line in lines, line
    assert "## C22" not in lines
    with pytest.raises(UsageError, match=r"verdicts\.md"):
        write_ledger_markdown(OVERVIEW, DETAILS, EFFECTS, tmp_path)


def test_a_claim_without_effects_tells_why(tmp_path: Path) -> None:
    text = write_ledger_markdown(OVERVIEW, DETAILS, pd.DataFrame(), tmp_path / "verdicts.md").read_text()
    assert "because" in text.splitlines()


def test_a_bar_in_a_cell_does_not_end_it_and_a_setting_is_said_once(tmp_path: Path) -> None:
    one = effect("norm", "value", 1.0, 0.5, 2.0) | {"setting": "|a|", "meaning": "length, |a|", "unit": "m"}
    text = write_ledger_markdown(OVERVIEW, DETAILS, pd.DataFrame([one]), tmp_path / "verdicts.md").read_text()
    assert "| norm | \\|a\\| | 1 | 0.5 to 2 | 3 |  |  |" in text
    assert "- `norm`: length (m)" in text
