"""One self-contained HTML page of texts, tables and figures that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ics.analysis.headline import number
from ics.errors import UsageError
from ics.plots import style

__all__ = ["destination", "escape", "folded", "items", "page", "paragraph", "picture", "section", "table"]

_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #1b1b1b; background: #fff;
       max-width: 1000px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 38px 0 6px; padding-top: 10px; border-top: 1px solid #d8d8d8; }
p { margin: 6px 0 10px; max-width: 78ch; }
ul, ol { margin: 6px 0 10px; padding-left: 22px; max-width: 82ch; }
li { margin: 4px 0; }
.quiet { color: #5a5a5a; font-size: 13px; }
.findings { background: #f4f6f8; border-left: 4px solid #0072B2; padding: 10px 16px 10px 36px; }
.warning { border-left: 4px solid #D55E00; background: #fdf4ee; padding: 8px 14px 8px 30px; }
figure { margin: 12px 0 18px; }
figure img { max-width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; margin: 8px 0 14px; }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
th { color: #4a4a4a; font-weight: 600; vertical-align: bottom; }
td.name { white-space: nowrap; }
td.heading { padding-top: 12px; color: #4a4a4a; max-width: 900px; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.number { text-align: right; }
details { margin: 6px 0 10px; font-size: 13px; }
summary { cursor: pointer; color: #4a4a4a; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px; }
@media print { body { max-width: none; padding: 0; font-size: 11px; } figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; } .scroll { overflow: visible; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole HTML document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def section(title: str, lead: str, *parts: str) -> str:
    """Return a section: a heading, a lead that says what is shown and how it was measured, and the parts."""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", paragraph(lead) if lead else "", *parts, "</section>"])


def paragraph(text: str, *, kind: str = "") -> str:
    """Return a paragraph; `kind` is a class of the page: quiet or warning."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def items(texts: Iterable[str], *, kind: str = "", ordered: bool = False) -> str:
    """Return a list."""
    tag = "ol" if ordered else "ul"
    lines = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<{tag}{_class(kind)}>{lines}</{tag}>"


def folded(title: str, *parts: str) -> str:
    """Return parts that are shown when their title is clicked."""
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>"


def picture(figure: Figure, description: str) -> str:
    """Return a figure drawn into the page as SVG, with a description for those who cannot see it."""
    # No date, so that equal runs give equal files. As an image: inline, ids such as axes_1 of two figures would clash.
    buffer = io.BytesIO()
    with style.settings():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    width = f"width:{round(88 * figure.get_figwidth())}px"
    return f'<figure><img alt="{escape(description)}" style="{width}" src="data:image/svg+xml;base64,{data}"></figure>'


def table(
    frame: pd.DataFrame,
    *,
    swatches: dict[str, str] | None = None,
    headings: Mapping[int, tuple[str, str]] | None = None,
) -> str:
    """Return a frame as a table: numbers with three digits, null as a dash, a colour patch before each net.

    Args:
        frame: one row of the table per row.
        swatches: net to the colour of its patch.
        headings: number of a row, from 0, to a name and its explanation: a line over the whole width above the row.
    """
    numeric = [bool(pd.api.types.is_numeric_dtype(frame[name])) for name in frame.columns]
    head = "".join(
        f"<th{_class('number' if right else '')}>{escape(str(name))}</th>"
        for name, right in zip(frame.columns, numeric, strict=True)
    )
    rows = [_row(frame.columns.tolist(), row, numeric, swatches or {}) for row in frame.itertuples(index=False)]
    for place, (name, text) in (headings or {}).items():
        line = f"<strong>{escape(name)}</strong>{escape(f': {text}' if text else '')}"
        rows[place] = f'<tr><td class="heading" colspan="{len(numeric)}">{line}</td></tr>{rows[place]}'
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _row(names: Sequence[str], row: Iterable[object], numeric: Sequence[bool], swatches: dict[str, str]) -> str:
    cells = []
    for name, value, right in zip(names, row, numeric, strict=True):
        text = escape(_text(value))
        if name == "net" and str(value) in swatches:
            text = f'<span class="swatch" style="background:{swatches[str(value)]}"></span>{text}'
        kind = "number" if right else "name" if name in ("run", "net") else ""
        cells.append(f"<td{_class(kind)}>{text}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _text(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float | np.floating):
        return number(float(value))
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}".replace(",", " ")  # to many readers a comma is the decimal sign
    return str(value)


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def destination(path: str | os.PathLike[str], *, example: str) -> Path:
    """Return where to write a page, and make its folder. Called before the page is drawn, which takes a while.

    Args:
        path: the file.
        example: the name of a file in a folder, for the sentence that refuses the folder.

    Raises:
        UsageError: the path is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"expected a file to write the page to, got the folder {target}; type {target / example}")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
