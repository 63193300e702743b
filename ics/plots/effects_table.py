"""The effects of a claim as a table: measure by measure, what it is said once, then a row per setting."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ics.analysis.sentences import number
from ics.plots import page

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
    return page.table(shown.loc[:, shown.notna().any()], headings=headings)


def parts_of(meaning: str, scale: str) -> tuple[str, str]:
    """Return what a measure is, and which two nets it compares.

    The names of nets may hold commas, the one on the left as many as the one on the right.

    Example:
        >>> parts_of("||dG||, median over steps, BatchNorm, images / standard, images", "ratio")
        ('||dG||, median over steps', 'BatchNorm, images / standard, images')
        >>> parts_of("steps, median over seeds", "value")
        ('steps, median over seeds', '')
    """
    sign = _SIGNS.get(scale)
    if sign is None or sign not in meaning:
        return meaning, ""
    left, right = meaning.rsplit(sign, 1)
    words = left.split(", ")
    first = max(len(words) - 1 - right.count(", "), 0)
    return ", ".join(words[:first]), f"{', '.join(words[first:])}{sign}{right}"


def _heading(rows: pd.DataFrame) -> tuple[tuple[str, str], list[str]]:
    """The measure and what its rows have in common, and what each has for itself."""
    records: list[dict[Any, Any]] = rows.to_dict("records")
    told = [parts_of(_text(row.get("meaning")), _text(row.get("scale"))) for row in records]
    words = [what.split(", ") for what, _ in told]
    shared = 0
    while all(len(each) > shared for each in words) and len({each[shared] for each in words}) == 1:
        shared += 1
    own = [", ".join([*each[shared:], *([nets] if nets else [])]) for each, (_, nets) in zip(words, told, strict=True)]
    settings = [_text(row.get("setting")) for row in records]
    own = ["" if words == setting else words for words, setting in zip(own, settings, strict=True)]
    what, unit = ", ".join(words[0][:shared]), _text(records[0].get("unit"))
    what += f" ({unit})" if unit not in ("", "1") else ""
    return (str(records[0]["measure"]), what), own


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _cell(value: float) -> str | None:
    return None if pd.isna(value) else number(float(value))
