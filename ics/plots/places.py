"""Panels by layer: which layers are drawn where there are many, and what stands above each panel."""

from __future__ import annotations

import pandas as pd

from ics.analysis.frames import spread_out
from ics.plots import style

Place = tuple[int, int]


def drawn_and_known(frame: pd.DataFrame, limit: int) -> tuple[list[Place], int]:
    """Return at most `limit` places (layer_index, call), evenly chosen by execution, and how many there are.

    Layers of different nets share a place where they stand at the same one in the order of execution.
    """
    known = sorted({(int(index), int(call)) for index, call in zip(frame["layer_index"], frame["call"], strict=True)})
    return [known[position] for position in spread_out(len(known), limit)], len(known)


def at(frame: pd.DataFrame, place: Place) -> pd.DataFrame:
    """Return the rows of one place."""
    return frame[(frame["layer_index"] == place[0]) & (frame["call"] == place[1])]


def title(panel: pd.DataFrame) -> str:
    """Return the number and the names of the layers of a panel, and the call where it is not the first."""
    names = list(dict.fromkeys(panel["layer"]))
    index = int(panel["layer_index"].iloc[0]) if len(panel) else 0
    call = int(panel["call"].iloc[0]) if len(panel) and "call" in panel.columns else 0
    return f"{index}: " + "\n".join(style.short(name, 24) for name in names[:2]) + (f", call {call}" if call else "")


def note(drawn: int, known: int) -> str:
    """Say that not all layers are drawn; the empty string where they are."""
    return f"{drawn} of {known} layers, evenly chosen in the order of execution." if drawn < known else ""
