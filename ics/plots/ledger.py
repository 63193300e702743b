"""The ledger of claims as one HTML page that needs nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from ics.analysis.sentences import number
from ics.errors import UsageError
from ics.plots import page
from ics.plots.forest import forest

_TITLE = "What is said about BatchNorm, measured"
_MARKS = {
    "supported": "✓ supported",
    "contradicted": "✗ contradicted",
    "mixed": "± mixed",
    "inconclusive": "? inconclusive",
}
_HOW = (
    "Each claim has a rule that was fixed before anything was measured: the measures that count, and for each the "
    "region in which its effect lies if the claim is true. The border of a region is the smallest effect that counts. "
    "An interval wholly inside supports, wholly outside contradicts; across the border it leaves the claim open, with "
    "about how many seeds would settle it. Where some measures support and others contradict, the verdict is mixed.",
    "Intervals are of the mean over seeds, paired by seed, 95 %: the bootstrap, widened for few seeds (Hesterberg "
    "2015), and never narrower than Student's t. Ratios are averaged by their logarithms. A run that diverged counts as"
    " the largest value; the estimate is then a median, its interval one of order statistics. Fewer than three seeds "
    "decide nothing. No correction is made for the number of claims: of many open questions some come out by chance.",
)


def write_ledger(
    overview: pd.DataFrame, details: pd.DataFrame, effects: pd.DataFrame, path: str | os.PathLike[str]
) -> Path:
    """Write the verdicts, and for each claim what was measured, to one HTML file; return its path.

    Args:
        overview: a row per claim: `id`, `title`, `sentence`, `source`, `verdict`, `budget`, `seeds`, `needs`, `reason`.
        details: a row per claim that was run: `id`, `published`, `remark`, `nets` and `studies` (lists of lines),
            `notes`, `command`, `made`.
        effects: a row per effect and criterion: `id`, and the columns of `ics.plots.forest`.
        path: the file; its folder is made if missing.

    Raises:
        UsageError: the path is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise UsageError(
            f"expected a file to write the page to, got the folder {target}; type {target / 'claims.html'}"
        )
    body = [
        f"<h1>{_TITLE}</h1>",
        page.paragraph(_summary(overview)),
        *(page.paragraph(text, kind="quiet") for text in _HOW),
        _table(overview),
    ]
    known = {str(row["id"]): row for row in details.to_dict("records")}
    for row in overview.to_dict("records"):
        if row["id"] in known:
            own = effects[effects["id"] == row["id"]] if not effects.empty else effects
            body.append(_claim(row, known[row["id"]], own))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page.page(_TITLE, body), encoding="utf-8")
    return target


def _summary(overview: pd.DataFrame) -> str:
    counts = overview["verdict"].value_counts()
    told = [f"{counts[kind]} {kind}" for kind in _MARKS if kind in counts]
    rest = len(overview) - sum(int(counts.get(kind, 0)) for kind in _MARKS)
    return f"{len(overview)} claims: {', '.join(told)}{f'; {rest} without a verdict' if rest else ''}."


def _table(overview: pd.DataFrame) -> str:
    shown = pd.DataFrame(
        {
            "claim": overview["id"],
            "sentence": overview["sentence"],
            "source": overview["source"],
            "verdict": overview["verdict"].map(_mark),
            "budget": overview["budget"],
            "seeds": overview["seeds"],
            "needs about": overview["needs"],
        }
    )
    table = page.table(shown)
    for name in overview.loc[overview["budget"].notna(), "id"]:
        table = table.replace(f"<td>{name}</td>", f'<td><a href="#{name}">{name}</a></td>')
    return table


def _mark(verdict: str) -> str:
    """A verdict with its sign, and spaces that do not break: it stays on one line."""
    return _MARKS.get(verdict, verdict).replace(" ", "\N{NO-BREAK SPACE}")


def _claim(row: dict[Any, Any], detail: dict[Any, Any], effects: pd.DataFrame) -> str:
    needs = "" if pd.isna(row["needs"]) else f"; needs about {row['needs']} seeds"
    verdict = f"{_MARKS.get(row['verdict'], row['verdict'])} (budget {row['budget']}, {row['seeds']} seeds{needs})"
    parts = [
        page.paragraph(f"“{row['sentence']}” — {row['source']}"),
        f"<p><strong>{page.escape(verdict)}</strong></p>",
    ]
    if effects.empty or "center" not in effects.columns:
        parts.append(page.paragraph(str(row["reason"]), kind="warning"))
    else:
        picture = page.picture(forest(effects), f"effects of {row['id']} with their intervals")
        parts += [_rule(effects), picture, *_tables(effects)]
    if detail["published"]:
        parts.append(page.paragraph(f"Published: {detail['published']}"))
    if detail["remark"]:
        parts.append(page.paragraph(f"How to read it: {detail['remark']}"))
    if detail["notes"]:
        parts.append(page.items(str(detail["notes"]).split(" | "), kind="warning"))
    parts += [_made_of(detail), page.paragraph(f"{detail['command']}: {detail['made']}", kind="quiet")]
    section = page.section(f"{row['id']} {row['title']}", "", *parts)
    return section.replace("<section>", f'<section id="{row["id"]}">', 1)


def _rule(effects: pd.DataFrame) -> str:
    """The criteria, each once, with the reason for its border."""
    if "criterion" not in effects.columns:
        return ""
    rows = effects[effects["criterion"].notna()].drop_duplicates("criterion")
    texts = [
        f"holds if {row['criterion']}{f': {why}' if (why := row.get('why')) else ''}" for row in rows.to_dict("records")
    ]
    return page.items(texts)


def _tables(effects: pd.DataFrame) -> list[str]:
    """The numbers that decide, and those beside them, which have no vote."""
    votes = effects["vote"].notna() if "vote" in effects.columns else pd.Series(False, index=effects.index)
    beside = [page.paragraph("Beside these, without a vote:", kind="quiet")] if votes.any() and not votes.all() else []
    tables = [_effects(part) for part in (effects[votes], effects[~votes]) if not part.empty]
    return [*tables[:1], *beside, *tables[1:]]


def _made_of(detail: dict[Any, Any]) -> str:
    """The nets and studies, folded: a claim may train a dozen."""
    lists = {"net": list(detail["nets"]), "study": list(detail["studies"])}
    plural = {"net": "nets", "study": "studies"}
    told = [f"{len(lines)} {kind if len(lines) == 1 else plural[kind]}" for kind, lines in lists.items() if lines]
    return page.folded(
        f"What was run: {' and '.join(told)}, each with every seed", page.items([*lists["net"], *lists["study"]])
    )


def _effects(effects: pd.DataFrame) -> str:
    """The numbers under the picture, with what each measure is."""
    shown = pd.DataFrame(
        {
            "measure": effects["measure"],
            "setting": effects.get("setting"),
            "what": effects.get("meaning"),
            "estimate": effects["center"].map(_cell),
            "from": effects["low"].map(_cell),
            "to": effects["high"].map(_cell),
            "n": effects["n"].astype("Int64"),
            "says": effects.get("vote"),
        }
    )
    shown = shown.astype({name: object for name in shown.columns if name != "n"})
    shown = shown.where(shown.notna() & (shown != ""), None)
    return page.table(shown.loc[:, shown.notna().any()])


def _cell(value: float) -> str | None:
    return None if pd.isna(value) else number(float(value))
