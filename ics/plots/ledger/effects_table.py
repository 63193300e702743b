"""The effects of a claim as a table: each measure is explained once, followed by a row per setting."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ics.analysis.headline import number
from ics.plots import html_page

_SIGNS = {"ratio": " / ", "difference": " - "}


def effects_table(effects: pd.DataFrame) -> str:
    """Return a table of estimates and intervals, in groups of one measure each.

    Args:
        effects: rows with `measure`, `meaning`, `unit`, `scale`, `setting`, `center`, `low`, `high`, `n`, and `vote`
            where there is one.
    """
    groups = [rows for _, rows in effects.groupby("measure", sort=False)]
    headings: dict[int, tuple[str, str]] = {}
    compared: list[str] = []
    for rows in groups:
        heading, own = _heading(rows)
        headings[len(compared)] = heading
        compared += own
    ordered = pd.concat(groups)
    shown = pd.DataFrame(
        {
            "setting": ordered.get("setting"),
            "compared": compared,
            "estimate": ordered["center"].map(_cell),
            "from": ordered["low"].map(_cell),
            "to": ordered["high"].map(_cell),
            "n": ordered["n"].astype("Int64"),
            "says": ordered.get("vote"),
        }
    )
    shown = shown.astype({name: object for name in shown.columns if name != "n"})
    shown = shown.where(shown.notna() & (shown != ""), None)
    return html_page.table(shown.loc[:, shown.notna().any()], headings=headings)


def parts_of(meaning: str, scale: str) -> tuple[list[str], int, str]:
    """Return the phrases of a meaning, how many of them explain the measure, and what follows the sign.

    The other phrases name the net on the left, which has as many commas as the one on the right. A single net has no
    sign.

    Example:
        >>> parts_of("||dG||, median over steps, BatchNorm, images / standard, images", "ratio")
        (['||dG||', 'median over steps', 'BatchNorm', 'images'], 2, ' / standard, images')
        >>> parts_of("steps, median over seeds", "value")
        (['steps', 'median over seeds'], 2, '')
    """
    sign = _SIGNS.get(scale)
    if sign is None or sign not in meaning:
        phrases = meaning.split(", ")
        return phrases, len(phrases), ""
    left, right = meaning.rsplit(sign, 1)
    phrases = left.split(", ")
    return phrases, max(len(phrases) - 1 - right.count(", "), 0), sign + right


def _heading(rows: pd.DataFrame) -> tuple[tuple[str, str], list[str]]:
    """Return the measure with what its rows have in common, and what is particular to each row."""
    records: list[dict[Any, Any]] = rows.to_dict("records")
    told = [parts_of(_text(row.get("meaning")), _text(row.get("scale"))) for row in records]
    # Where only one of two nets has a comma in its name too few phrases are counted, so the largest count holds.
    most, shared = max(count for _, count, _ in told), 0
    while all(shared < min(most, len(phrases)) for phrases, _, _ in told) and (
        len({phrases[shared] for phrases, _, _ in told}) == 1
    ):
        shared += 1
    own = [", ".join(phrases[shared:]) + tail for phrases, _, tail in told]
    settings = [_text(row.get("setting")) for row in records]
    own = ["" if words == setting else words for words, setting in zip(own, settings, strict=True)]
    what, unit = ", ".join(told[0][0][:shared]), _text(records[0].get("unit"))
    what += f" ({unit})" if unit not in ("", "1") else ""
    return (str(records[0]["measure"]), what), own


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _cell(value: float) -> str | None:
    return None if pd.isna(value) else number(float(value))
