"""The ledger of claims as one self-contained HTML page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from ics.plots import html_page
from ics.plots.ledger.effects_table import effects_table
from ics.plots.ledger.forest import forest
from ics.plots.ledger.words import HOW, MARKS, TITLE, condensed, rule_lines, summary, votes

_PICTURES = (
    "In the pictures the shaded stretch is where the effect lies if the claim is true. A circle supports, a square "
    "contradicts, a diamond leaves it open, a cross has no vote. In the table below, votes counts what each measure in "
    "each setting says."
)


def write_ledger(
    overview: pd.DataFrame, details: pd.DataFrame, effects: pd.DataFrame, path: str | os.PathLike[str]
) -> Path:
    """Write the verdicts, and for each claim what was measured, to one HTML file; return its path.

    Args:
        overview: a row per claim: `id`, `title`, `sentence`, `source`, `verdict`, `budget`, `seeds`, `needs`, `reason`.
        details: a row per claim that was run: `id`, `published`, `remark`, `nets` and `studies` (lists of lines),
            `notes`, `command`, `made`.
        effects: a row per effect and criterion: `id`, and the columns of `ics.plots.ledger.forest`.
        path: the file; its folder is made if missing.

    Raises:
        UsageError: the path is a folder.
    """
    target = html_page.destination(path, example="claims.html")
    body = [
        f"<h1>{TITLE}</h1>",
        html_page.paragraph(summary(overview)),
        *(html_page.paragraph(text, kind="quiet") for text in (*HOW, _PICTURES)),
        _table(overview, effects),
    ]
    known = {str(row["id"]): row for row in details.to_dict("records")}
    for row in overview.to_dict("records"):
        if row["id"] in known:
            own = effects[effects["id"] == row["id"]] if not effects.empty else effects
            body.append(_claim(row, known[row["id"]], own))
    target.write_text(html_page.page(TITLE, body), encoding="utf-8")
    return target


def _table(overview: pd.DataFrame, effects: pd.DataFrame) -> str:
    shown = pd.DataFrame(
        {
            "claim": overview["id"],
            "sentence": overview["sentence"],
            "source": overview["source"],
            "verdict": overview["verdict"].map(_mark),
            "votes": overview["id"].map(votes(effects)),
            "budget": overview["budget"],
            "seeds": overview["seeds"],
            "needs about": overview["needs"].where(overview["verdict"] == "inconclusive"),
        }
    )
    table = html_page.table(shown)
    for name in overview.loc[overview["budget"].notna(), "id"]:
        table = table.replace(f"<td>{name}</td>", f'<td><a href="#{name}">{name}</a></td>')
    return table


def _mark(verdict: str) -> str:
    """Return a verdict with its sign, and with no-break spaces that keep it on one line."""
    return MARKS.get(verdict, verdict).replace(" ", "\N{NO-BREAK SPACE}")


def _claim(row: dict[Any, Any], detail: dict[Any, Any], effects: pd.DataFrame) -> str:
    open_part = "what is open" if row["verdict"] == "mixed" else "it"
    needs = "" if pd.isna(row["needs"]) else f"; about {row['needs']} seeds would settle {open_part}"
    verdict = f"{MARKS.get(row['verdict'], row['verdict'])} (budget {row['budget']}, {row['seeds']} seeds{needs})"
    parts = [
        html_page.paragraph(f"“{row['sentence']}” — {row['source']}"),
        f"<p><strong>{html_page.escape(verdict)}</strong></p>",
    ]
    if effects.empty or "center" not in effects.columns:
        parts.append(html_page.paragraph(str(row["reason"]), kind="warning"))
    else:
        deciding = effects[_has_vote(effects)]
        drawn = effects if deciding.empty else deciding
        picture = html_page.picture(forest(drawn), f"effects of {row['id']} with their intervals")
        parts += [html_page.items(rule_lines(effects)), picture, *_tables(effects)]
    if detail["published"]:
        parts.append(html_page.paragraph(f"Published: {detail['published']}"))
    if detail["remark"]:
        parts.append(html_page.paragraph(f"How to read it: {detail['remark']}"))
    if detail["notes"]:
        parts.append(html_page.items(condensed(str(detail["notes"]).split(" | ")), kind="warning"))
    parts += [_made_of(detail), html_page.paragraph(f"{detail['command']}: {detail['made']}", kind="quiet")]
    section = html_page.section(f"{row['id']} {row['title']}", "", *parts)
    return section.replace("<section>", f'<section id="{row["id"]}">', 1)


def _tables(effects: pd.DataFrame) -> list[str]:
    """Return the table of the numbers that decide, and the table of those without a vote."""
    votes = _has_vote(effects)
    beside = (
        [html_page.paragraph("Beside these, without a vote:", kind="quiet")] if votes.any() and not votes.all() else []
    )
    tables = [effects_table(part) for part in (effects[votes], effects[~votes]) if not part.empty]
    return [*tables[:1], *beside, *tables[1:]]


def _has_vote(effects: pd.DataFrame) -> pd.Series:
    return effects["vote"].notna() if "vote" in effects.columns else pd.Series(False, index=effects.index)


def _made_of(detail: dict[Any, Any]) -> str:
    """Return the nets and studies, folded, because a claim may train a dozen."""
    lists = {"net": list(detail["nets"]), "study": list(detail["studies"])}
    plural = {"net": "nets", "study": "studies"}
    told = [f"{len(lines)} {kind if len(lines) == 1 else plural[kind]}" for kind, lines in lists.items() if lines]
    return html_page.folded(
        f"What was run: {' and '.join(told)}, each with every seed", html_page.items([*lists["net"], *lists["study"]])
    )
