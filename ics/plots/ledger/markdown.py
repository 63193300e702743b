"""The ledger of claims as Markdown: a page that is stored beside the ledger and read without running anything."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ics.analysis.headline import number
from ics.plots import html_page
from ics.plots.ledger.words import HOW, MARKS, TITLE, condensed, rule_lines, summary, votes


def write_ledger_markdown(
    overview: pd.DataFrame, details: pd.DataFrame, effects: pd.DataFrame, path: str | os.PathLike[str]
) -> Path:
    """Write the verdicts, and for each claim what was measured, to one Markdown file; return its path.

    Args:
        overview, details, effects: as `ics.plots.ledger.page.write_ledger` takes them.
        path: the file; its folder is made if missing.

    Raises:
        UsageError: the path is a folder.
    """
    target = html_page.destination(path, example="verdicts.md")
    target.write_text(ledger_markdown(overview, details, effects), encoding="utf-8")
    return target


def ledger_markdown(overview: pd.DataFrame, details: pd.DataFrame, effects: pd.DataFrame) -> str:
    """Return the page as text; the arguments are those of `write_ledger_markdown`."""
    counted = votes(effects)
    rows = overview.to_dict("records")
    parts = [
        f"# {TITLE}",
        summary(overview),
        *HOW,
        _table(
            ("claim", "sentence", "verdict", "votes", "budget", "seeds", "needs about"),
            [
                (
                    row["id"] if pd.isna(row["budget"]) else f"[{row['id']}](#{row['id'].lower()})",
                    row["sentence"],
                    MARKS.get(row["verdict"], row["verdict"]),
                    counted.get(row["id"], ""),
                    row["budget"] or "",
                    row["seeds"],
                    row["needs"] if row["verdict"] == "inconclusive" else None,
                )
                for row in rows
            ],
        ),
    ]
    known = {str(row["id"]): row for row in details.to_dict("records")}
    for row in rows:
        if row["id"] in known:
            own = effects[effects["id"] == row["id"]] if not effects.empty else effects
            parts += _claim(row, known[row["id"]], own)
    return "\n\n".join(parts) + "\n"


def _claim(row: dict[Any, Any], detail: dict[Any, Any], effects: pd.DataFrame) -> list[str]:
    # The heading is the identifier alone, so that its anchor stays where it is when words change.
    parts = [f"## {row['id']}", f"**{row['title']}.** “{row['sentence']}” — {row['source']}"]
    parts.append(f"**{MARKS.get(row['verdict'], row['verdict'])}** (budget {row['budget']}, {row['seeds']} seeds)")
    if effects.empty or "center" not in effects.columns:
        parts.append(str(row["reason"]))
    else:
        parts += [_items(rule_lines(effects)), _effects(effects), _meanings(effects)]
    parts += [f"{label}: {detail[key]}" for label, key in _TOLD.items() if detail[key]]
    if detail["notes"]:
        parts.append(_items(condensed(str(detail["notes"]).split(" | "))))
    parts.append(f"`{detail['command']}`: {detail['made']}. Nets and studies: {_run(detail)}.")
    return [part for part in parts if part]


_TOLD = {"Published": "published", "How to read it": "remark"}


def _effects(effects: pd.DataFrame) -> str:
    rows = [
        (
            row["measure"],
            _text(row.get("setting")),
            number(float(row["center"])) if pd.notna(row["center"]) else "not known",
            f"{number(float(row['low']))} to {number(float(row['high']))}" if pd.notna(row["low"]) else "",
            row["n"],
            _text(row.get("criterion")).removeprefix(f"{row['measure']} "),
            _text(row.get("vote")),
        )
        for row in effects.to_dict("records")
    ]
    return _table(("measure", "setting", "estimate", "95 % interval", "n", "holds if", "says"), rows)


def _meanings(effects: pd.DataFrame) -> str:
    """Explain each measure once, with the meaning of its first setting."""
    known = effects[effects["meaning"].fillna("") != ""].drop_duplicates("measure")
    return _items(
        f"`{row['measure']}`: {row['meaning'].removesuffix(', ' + _text(row.get('setting')))}{_unit(row)}"
        for row in known.to_dict("records")
    )


def _unit(row: dict[Any, Any]) -> str:
    unit = _text(row.get("unit"))
    return "" if unit in ("", "1") else f" ({unit})"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _run(detail: dict[Any, Any]) -> str:
    return "; ".join([*detail["nets"], *detail["studies"]]) or "none"


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return ""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return _plain(text).replace("|", "\\|")  # norms are written with bars, each of which would end the cell


def _plain(text: str) -> str:
    """Escape `<`, so that it starts no tag."""
    return text.replace("<", "&lt;")
