"""Pieces of a page: escaped, null as a dash, numbers to three digits."""

import numpy as np
import pandas as pd

from ics.plots import html_page


def test_text_of_others_is_escaped_everywhere() -> None:
    evil = "<script>&"
    pieces = [
        html_page.paragraph(evil),
        html_page.items([evil]),
        html_page.section(evil, evil),
        html_page.table(pd.DataFrame({evil: [evil], "net": [evil]}), swatches={evil: "#000000"}),
        html_page.page(evil, []),
    ]
    for piece in pieces:
        assert "<script>" not in piece
        assert "&lt;script&gt;&amp;" in piece


def test_cells_are_numbers_to_three_digits_and_dashes_for_null() -> None:
    frame = pd.DataFrame(
        {"value": [1234.5678, np.nan], "whole": [12345, 7], "text": ["a", None], "maybe": pd.array([1, None], "Int64")}
    )
    table = html_page.table(frame)
    for cell in ("1.23e3", "12 345", ">7<", ">a<"):
        assert cell in table
    assert table.count(">–<") == 3
    assert table.count('<td class="number">') == 6
