"""docs/performance.md and its figures, from the CSVs in docs/bench.

.bench-venv/bin/python -m scripts.bench.suite.page
.bench-venv/bin/python -m scripts.bench.suite.page --from /tmp/bench --to /tmp/performance.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from ics.recording.presets import PRESETS
from scripts.bench.suite.all_ways import all_ways
from scripts.bench.suite.disk import LONG, SHORT
from scripts.bench.suite.figures import growth_figure, save, tools_figure
from scripts.bench.suite.nets import FULL_SUITE, NETS
from scripts.bench.suite.prose import GROWTH, INTRODUCTION, OTHERS, OWN_COST
from scripts.bench.suite.prose import PRESETS as PRESET_COST
from scripts.bench.suite.rows import DOCS, FOLDER, read_rows
from scripts.bench.suite.stages import OWN
from scripts.bench.suite.targets import Verdict, contests, pick, verdicts, with_writing
from scripts.bench.suite.ways import Way


def page(suite: pd.DataFrame, growth: pd.DataFrame) -> str:
    """Return the text of the page; what was not measured is said to be so."""
    ways = all_ways()
    if suite.empty:
        return INTRODUCTION.format(machine="Nothing was measured yet.")
    rows = with_writing(suite)
    parts = [
        INTRODUCTION.format(machine=machine_sentence(suite)),
        "## Aimed at\n\n"
        + table(["", "at most", "measured", ""], target_cells(verdicts(rows)))
        + missed(verdicts(rows)),
        PRESET_COST.format(table=presets_table(rows)),
        OWN_COST.format(table=own_table(rows, ways), short=SHORT, long=LONG),
        OTHERS.format(table=others_table(rows, ways), contests=contest_sentences(rows, ways)),
        "## Who records what\n\n" + table(["", "records", "used here"], record_cells(ways)),
    ]
    if not growth.empty and (growth["axis"] == "length").any():
        parts.append(GROWTH.format(table=length_table(growth[growth["axis"] == "length"], ways)))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def machine_sentence(frame: pd.DataFrame) -> str:
    """Say on what machine, with what torch, under what load the rows came about."""
    rows = frame.dropna(subset=["cpu"])
    cpus, torches = (", ".join(str(value) for value in rows[name].unique()) for name in ("cpu", "torch"))
    cores, threads = (" and ".join(str(int(value)) for value in rows[name].unique()) for name in ("cores", "threads"))
    load = " to ".join(dict.fromkeys(f"{rows['load_average'].agg(end):.1f}" for end in ("min", "max")))
    dates = " and ".join(str(value) for value in rows["date"].unique())
    return (
        f"{cpus}, {cores} cores, {threads} threads; torch {torches}; denormal numbers flushed to zero; "
        f"load average as each net began {load}; {dates}."
    )


def target_cells(found: list[Verdict]) -> Iterator[list[str]]:
    """Yield a row of the table of targets for each verdict."""
    for verdict in found:
        measured = "" if verdict.value is None else number(verdict.value, verdict.low, verdict.high)
        yield [verdict.text, f"{verdict.limit:g}", measured, word(verdict)]


def word(verdict: Verdict) -> str:
    """Return met or missed, and whether the interval of the median leaves room for the other.

    Example:
        >>> word(Verdict("idle", 1.005, 1.003, 1.001, 1.004)), word(Verdict("idle", 1.005, 1.003, 0.98, 1.02))
        ('met', 'met, but the interval reaches past the limit')
    """
    if verdict.met is None:
        return "not measured"
    text = "met" if verdict.met else "**missed**"
    unsure = verdict.low is not None and verdict.high is not None and verdict.low <= verdict.limit < verdict.high
    return f"{text}, but the interval reaches past the limit" if unsure else text


def missed(found: list[Verdict]) -> str:
    """Return a line for each target that is missed and has a reason."""
    reasons = [f"- {verdict.text}: {verdict.why}" for verdict in found if verdict.met is False and verdict.why]
    return "\n".join(["", "", *reasons] if reasons else [])


def presets_table(rows: pd.DataFrame) -> str:
    """Return what each preset records, what a measured step costs on every net, every 10th, and on disk."""
    heads = [
        "",
        "records",
        *(NETS[net].label for net in FULL_SUITE),
        "the MLP, every 10th step",
        "kB, VGG-16-BN",
    ]
    cells = []
    for name, preset in PRESETS.items():
        found = [ratio_cell(pick(rows, net, "ics", name)) for net in FULL_SUITE]
        disk = pick(rows, FULL_SUITE[-1], "disk", name)
        size = "" if disk is None else f"{disk['kilobytes']:.3g}"
        cells.append([f"`{name}`", preset.meaning, *found, ratio_cell(pick(rows, "mlp", "ics", f"{name}_10")), size])
    return table(heads, cells)


def own_table(rows: pd.DataFrame, ways: Mapping[str, Way]) -> str:
    """Return the table of the ways of `ics`: ratios of every net, bytes of the largest."""
    names = ["plain_again", "idle", *(name for own in OWN for name in (own, f"{own}_10"))]
    plain = [pick(rows, net, "ics", "plain") for net in FULL_SUITE]
    cells = [["plain, ms a step", *("" if row is None else f"{row['milliseconds']:.3g}" for row in plain), ""]]
    for name in names:
        found = [pick(rows, net, "ics", name) for net in FULL_SUITE]
        disk = pick(rows, FULL_SUITE[-1], "disk", name)
        if any(row is not None for row in found):
            size = "" if disk is None else f"{disk['kilobytes']:.3g}"
            cells.append([ways[name].label, *(ratio_cell(row) for row in found), size])
    return table(["", *(NETS[net].label for net in FULL_SUITE), "kB a recorded step, VGG-16-BN"], cells)


def others_table(rows: pd.DataFrame, ways: Mapping[str, Way]) -> str:
    """Return the table of the stage in which all tools take turns."""
    cells = []
    for name, way in ways.items():
        found = [pick(rows, net, "all", name) for net in FULL_SUITE]
        if name == "plain" or all(row is None for row in found):
            continue
        seen = next(row for row in found if row is not None)
        version = str(seen["version"]) if isinstance(seen["version"], str) else ""
        sizes = [size_of(rows, row) for row in found if row is not None]
        cells.append(
            [
                way.label,
                version,
                *(ratio_cell(row) for row in found),
                " / ".join(f"{size:.3g}" if size == size else "-" for size in sizes),
            ]
        )
    heads = ["", "version", *(NETS[net].label for net in FULL_SUITE), "kB a step"]
    reasons = rows[(rows["stage"] == "all") & rows["reason"].notna()]
    lines = [
        f"- {ways[row['way']].label} cannot run on {NETS[row['net']].label}: `{row['reason']}`"
        for _, row in reasons.iterrows()
    ]
    return "\n".join([table(heads, cells), *(["", *lines] if lines else [])])


def size_of(rows: pd.DataFrame, row: pd.Series) -> float:
    """Return kB per recorded step: the slope where it was measured, else all files over all steps."""
    slope = pick(rows, row["net"], "disk", row["way"])
    return float(row["kilobytes"] if slope is None else slope["kilobytes"])


def contest_sentences(rows: pd.DataFrame, ways: Mapping[str, Way]) -> str:
    """Say which tools that record no more than `ics` are slower in the same run, and which are not."""
    found = list(contests(rows, ways))
    if not found:
        return ""
    faster = [one for one in found if not one.slower]
    close = [one for one in found if one.slower and not one.clear]
    text = (
        f"Of {len(found)} comparisons with a tool that records no more than `ics` does in the same run (next table), "
        f"`ics` is the faster in {len(found) - len(faster)}"
    )
    text += "." if not close else f", in {len(close)} of them with intervals that meet."
    for one in faster:
        text += (
            f"\n**Missed**: {ways[one.rival].label} on {NETS[one.net].label} takes {one.rival_ratio:.3g}, "
            f"{ways[one.own].label} {one.own_ratio:.3g}."
        )
    return text


def record_cells(ways: Mapping[str, Way]) -> Iterator[list[str]]:
    """Yield what each way records, how it is used, and beside which way of `ics` it is held."""
    for way in ways.values():
        if way.kind == "plain" or way.interval > 1:
            continue
        beside = f"; no more than {ways[way.within].label}" if way.within else ""
        other = "" if way.within or way.kind == "ics" else "; other things than `ics`, so not held against it"
        yield [way.label, way.records, way.use + beside + other]


def length_table(rows: pd.DataFrame, ways: Mapping[str, Way]) -> str:
    """Return time per step and reading time along the length of the run."""
    cells = []
    for name, of_way in rows.groupby("way", sort=False):
        for _, row in of_way.iterrows():
            opened = "" if pd.isna(row["open_ms"]) else f"{row['open_ms']:.3g}"
            column = "" if pd.isna(row["column_ms"]) else f"{row['column_ms']:.3g}"
            size = "" if pd.isna(row["bytes_per_record"]) else f"{row['bytes_per_record'] / 1000:.3g}"
            cells.append(
                [ways[str(name)].label, f"{row['value']:,}", f"{row['ms_per_step']:.3g}", size, opened, column]
            )
    return table(["", "measured steps", "ms a step", "kB a step", "opening, ms", "one column of one layer, ms"], cells)


def ratio_cell(row: pd.Series | None) -> str:
    """Return ratio and interval; what is missing as such."""
    if row is None:
        return ""
    return "cannot run" if pd.isna(row["ratio"]) else number(row["ratio"], row["low"], row["high"])


def number(value: float, low: float | None = None, high: float | None = None) -> str:
    """Return a number with its interval, to three decimals where it is near 1.

    Example:
        >>> number(1.0034, 1.001, 1.0061), number(18.26, 17.9, 19.04), number(15.0)
        ('1.003 (1.001 to 1.006)', '18.3 (17.9 to 19)', '15')
    """
    digits = ".3f" if low is not None and value < 2 else ".3g"
    text = format(value, digits)
    return text if low is None or high is None else f"{text} ({format(low, digits)} to {format(high, digits)})"


def table(heads: list[str], cells: Iterator[list[str]] | list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)])


def main() -> None:
    """Write the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, default=FOLDER, help="folder of the CSVs and figures")
    parser.add_argument("--to", type=Path, default=DOCS / "performance.md")
    options = parser.parse_args()
    suite, growth = read_rows(options.folder, "suite_*.csv"), read_rows(options.folder, "growth_*.csv")
    options.to.write_text(page(suite, growth))
    ways = all_ways()
    if not suite.empty and (suite["stage"] == "all").any():
        save(tools_figure(with_writing(suite).query("stage == 'all'"), ways), options.folder / "suite_tools.png")
    if not growth.empty:
        save(growth_figure(growth, ways), options.folder / "growth.png")


if __name__ == "__main__":
    main()
