"""How long a long run takes to open and to read, and how flat flushing and ending it stay.

    python scripts/bench/reading.py          # 10 000 measured steps; CSVs into docs/bench/, tables into docs/reading.md
    python scripts/bench/reading.py --steps 1000 --to kept

Writes runs through `ics.store.Writer` as a recorder does: 60 layers with three sites of pooled statistics and a
gradient shift each, a flush every 200 measured steps. `reading.csv` has the seconds of each way to read the long run,
and its ratio to reading the whole table; `reading_growth.csv` what a flush, the end and reading cost after 10, 100,
1000 and 10 000 measured steps. The files are in the system's cache when they are read.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ics.store import Writer, open_run

DOCS = Path(__file__).parents[2] / "docs"
LAYERS = [f"features.{number}" for number in range(60)]
SITES = ("input", "preactivation", "activation")
POOLED = ("mean", "m2", "m3", "m4", "minimum", "maximum", "zero_fraction", "negative_fraction")
SHIFT = ("gradient_norm", "shifted_gradient_norm", "shift_l2", "shift_cosine", "shift_relative", "floor_l2")
FLUSH = 200


def rows(steps: np.ndarray, *names: str, **keys: list[str]) -> dict[str, Any]:
    """Return rows of every step, layer and further key, with random float32 values in the named columns."""
    (key, cells), *_ = keys.items()
    each = len(LAYERS) * len(cells)
    rng = np.random.default_rng(int(steps[0]))
    columns: dict[str, Any] = {
        "step": np.repeat(steps, each),
        "layer": [layer for layer in LAYERS for _ in cells] * len(steps),
        "layer_index": np.tile(np.repeat(np.arange(len(LAYERS)), len(cells)), len(steps)),
        key: list(cells) * (len(LAYERS) * len(steps)),
    }
    return columns | {name: rng.standard_normal(len(steps) * each).astype(np.float32) for name in names}


def write(path: Path, num_steps: int) -> dict[str, float]:
    """Write a run; return the median seconds of the last flushes, the longest flush, and the seconds of its end."""
    writer, flushes = Writer(path, info={"config": {"net": "synthetic"}}), []
    for first in range(0, num_steps, FLUSH):
        steps = np.arange(first, min(first + FLUSH, num_steps))
        activations = rows(steps, *POOLED, site=list(SITES))
        num_rows = len(activations["step"])
        writer.append("activations", activations | {"call": [0] * num_rows, "count": np.full(num_rows, 131072)})
        writer.append("gradient_shift", rows(steps, *SHIFT, parameters=["weight"]))
        writer.append("steps", {"step": steps, "loss": 1 / (1 + steps), "duration": np.full(len(steps), 0.1)})
        started = time.perf_counter()
        writer.flush()
        flushes.append(time.perf_counter() - started)
    started = time.perf_counter()
    writer.close()
    ended = time.perf_counter() - started
    return {
        "flush_s": median(flushes),
        "longest_flush_s": max(flushes),
        "mean_flush_s": float(np.mean(flushes)),
        "end_s": ended,
    }


def seconds(read: Callable[[], Any], repeats: int) -> tuple[float, float, int]:
    """Return the median and the longest time of a read, and how many rows it gave."""
    times, num_rows = [], 0
    for _ in range(repeats):
        started = time.perf_counter()
        num_rows = len(read())
        times.append(time.perf_counter() - started)
    return median(times), max(times), num_rows


def ways(path: Path) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Return what is asked of the run: the table it is about, and how."""
    one_layer: dict[str, Any] = {"columns": ["step", "mean"], "where": {"layer": LAYERS[37], "site": "activation"}}
    shift: dict[str, Any] = {"columns": ["step", "shift_relative"], "where": {"layer": LAYERS[37]}}
    found: dict[str, tuple[str, Callable[[], Any]]] = {
        "open": ("run", lambda: open_run(path).tables),
        "columns": ("activations", lambda: open_run(path).columns("activations")),
        "one column of one layer and site": ("activations", lambda: open_run(path).table("activations", **one_layer)),
        "one column of one layer": ("gradient_shift", lambda: open_run(path).table("gradient_shift", **shift)),
        "all steps": ("steps", lambda: open_run(path).table("steps")),
        "one column of all layers": ("activations", lambda: open_run(path).arrow("activations", columns=["mean"])),
        "whole table": ("activations", lambda: open_run(path).arrow("activations")),
    }
    try:
        import duckdb
    except ImportError:
        return found
    query = f"""select step, mean from '{path}/activations/*.parquet'
                where layer = '{LAYERS[37]}' and site = 'activation' order by step"""
    mean = f"select layer, avg(m2) from '{path}/activations/*.parquet' group by layer"
    connection = duckdb.connect()
    found["DuckDB: one column of one layer and site"] = (
        "activations",
        lambda: connection.execute(query).fetchnumpy()["step"],
    )
    found["DuckDB: mean of a column by layer"] = "activations", lambda: connection.execute(mean).fetchall()
    return found


def folder_size(path: Path) -> tuple[int, int]:
    """Return the bytes of a run and the number of its parts."""
    parts = list(path.rglob("*.parquet"))
    return sum(os.path.getsize(part) for part in parts), len(parts)


def read_all(path: Path, num_steps: int, repeats: int) -> list[dict[str, Any]]:
    """Time every way to read a run."""
    size, num_parts = folder_size(path)
    found = []
    for name, (table, read) in ways(path).items():
        middle, longest, num_rows = seconds(read, repeats)
        found.append({"way": name, "table": table, "rows": num_rows, "seconds": middle, "longest": longest})
    whole = next(row["seconds"] for row in found if row["way"] == "whole table")
    for row in found:
        row |= {"of_whole_table": round(row["seconds"] / whole, 4), "steps": num_steps, "layers": len(LAYERS)}
        row |= {"bytes_per_step": round(size / num_steps), "parts": num_parts}
        row |= {name: round(row[name], 4) for name in ("seconds", "longest")}
        print(row, flush=True)
    return found


def save(name: str, found: list[dict[str, Any]]) -> None:
    """Write rows as a CSV beside the other benchmarks."""
    with (DOCS / "bench" / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def write_page(found: list[dict[str, Any]], growth: list[dict[str, Any]]) -> None:
    """Put the tables at the end of docs/reading.md."""
    page = DOCS / "reading.md"
    text, heading, _ = page.read_text().partition("## How long it takes\n")
    first = found[0]
    lines = [
        text + heading,
        "    python scripts/bench/reading.py\n",
        f"{first['steps']} measured steps, {first['layers']} layers, {len(SITES)} sites each: pooled statistics of "
        "every site and the gradient shift of\nevery layer. Two CPU cores, files in the system's cache; "
        "raw numbers in [reading.csv](bench/reading.csv).\n",
        "| what is read | table | rows | seconds | of reading the whole table |",
        "|---|---|---|---|---|",
        *(
            f"| {row['way']} | {row['table']} | {row['rows']} | {row['seconds']:.4f} | {row['of_whole_table']:.4f} |"
            for row in found
        ),
        "\nAims: open in under 1 s, one column of one layer in under 0.2 s. "
        + ("Both are met." if all(row["seconds"] < aim for row, aim in aims(found)) else "Not all are met."),
        "\nA longer run has no slower flushes and reads no slower than its rows demand "
        "([reading_growth.csv](bench/reading_growth.csv)). Up to\n200 steps are flushed at once. The mean flush has "
        "its share of merging, the longest merges eight parts; a recorder does both\nbeside the training. The end of a "
        "run rewrites the newest 16 MiB of each table at most, so it stops growing there.\n",
        "| measured steps | flush, median s | mean | longest | end of the run, s | open, s | one column of one layer, "
        "s | parts |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['steps']} | {row['flush_s']:.3f} | {row['mean_flush_s']:.3f} | {row['longest_flush_s']:.3f} | "
            f"{row['end_s']:.3f} | {row['open_s']:.4f} | {row['one_layer_s']:.4f} | {row['parts']} |"
            for row in growth
        ),
    ]
    page.write_text("\n".join(lines) + "\n")


def aims(found: list[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
    """Return the rows for which a time is aimed at, with that time in seconds."""
    return [
        (row, 1.0 if row["way"] == "open" else 0.2)
        for row in found
        if row["way"] == "open" or "one layer" in row["way"]
    ]


def main() -> None:
    """Write runs of growing length, time them, and read the longest in every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000, help="measured steps of the longest run")
    parser.add_argument("--to", type=Path, help="keep the runs in this folder; default: they are removed")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    folder = options.to or Path(tempfile.mkdtemp())
    lengths = [length for length in (10, 100, 1000, 10_000, 100_000) if length < options.steps] + [options.steps]
    growth = []
    for num_steps in lengths:
        path = folder / f"run-{num_steps}"
        shutil.rmtree(path, ignore_errors=True)
        row = {"steps": num_steps, **{name: round(value, 4) for name, value in write(path, num_steps).items()}}
        opened = seconds(lambda path=path: open_run(path).tables, options.repeats)[0]
        layer = seconds(ways(path)["one column of one layer and site"][1], options.repeats)[0]
        size, num_parts = folder_size(path)
        row |= {"open_s": round(opened, 4), "one_layer_s": round(layer, 4), "bytes_per_step": round(size / num_steps)}
        growth.append(row | {"parts": num_parts})
        print(growth[-1], flush=True)
    found = read_all(path, num_steps, options.repeats)
    save("reading_growth.csv", growth)
    save("reading.csv", found)
    write_page(found, growth)
    if options.to is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
