"""The written form of what a run holds on disk: docs/schema.md is this text."""

from __future__ import annotations

from collections.abc import Iterator

from ics.buckets import NUM_BUCKETS, OVERFLOW, RELATIVE_ERROR, SUB_BUCKETS
from ics.schema import SCHEMA_VERSION, TABLES, Column, Table

_OPENING = f"""\
# What a run holds

Schema version {SCHEMA_VERSION}. Made by `ics.store.schema_markdown()`; edit `ics/schema.py`, not this page.

A run is a folder:

    runs/vgg-bn-0/
      run.json                                     all that the run holds besides its rows
      steps/part-00000000-00000000.parquet         rows of flush 0
      steps/part-00000001-00000001.parquet         rows of flush 1
      activations/part-00000000-00000041.parquet   rows of flushes 0 to 41, merged

**Parts.** Each part is written whole under another name, forced to disk and renamed, and never changed. Its name
says which flushes it holds. A part whose numbers lie within those of another has been merged into that one and
counts no more. It is deleted at once, so only a run that is being written, or was killed in that moment, shows such
parts; who reads its Parquet files without `ics` must leave them out. Eight parts that hold as many flushes each are
merged into one while the run goes on, and the newest of a table, up to 16 MiB, when it ends. Rows are sorted by layer,
call, site and the like, then by step. Tables without layers are sorted by their keys. Compression is zstd; strings are
dictionary-encoded, the numbers of histogram buckets stored as differences, all other numbers as they are; pages
carry checksums. `ics.schema_version` in the metadata of each part says which schema it was written by. How to read
a run, and with which programs that was tried, is in [reading.md](reading.md).

**Null and NaN.** Null is *not defined* or *not recorded*; keys are never null. NaN and infinity are values that
occurred. A pandas frame shows both null and NaN as NaN, `run.arrow(...)` keeps them apart.

**Versions.** The version rises when a column changes its meaning or goes. A run of a newer version is refused by
name; within a version there may be further nullable columns, which are null in older parts.

## run.json

| field | meaning |
|---|---|
| schema_version | version of the schema that wrote the run |
| state | running (not ended yet, or killed), completed, failed or interrupted |
| started, ended | UTC times in ISO 8601; ended is null while the run is running |
| config | the whole configuration of the training |
| seed | the seed it was started with |
| instruments | instrument to its schedule, as text |
| preset | the preset that the instruments came from; null where they were named |
| budget | allowed share of training time, the share spent, how schedules were stretched; null without one |
| grouping | what counts as a layer: paper or leaf |
| layers | name, index, kind, modules, weight, parameters, shape and num_parameters of each layer, in execution order |
| versions, device, num_threads, platform | what it ran on |
| git_commit | commit of the working directory; null where there is none |
| model | class and number of parameters |
| objective | whether the loss that was measured is the loss that was trained |
| num_nonfinite_losses | steps whose loss was NaN or infinite |
| notes | sentences that a reader of the run must see: instruments switched off, warnings |

It is strict JSON. NaN and infinity, which JSON lacks, are written as `{{"$float": "nan"}}`, `{{"$float": "inf"}}`
and `{{"$float": "-inf"}}`.

## Histograms

`histogram_bucket` and `histogram` are lists of equal length: the numbers of the buckets that are not empty,
ascending, and how many values fell into each. The {NUM_BUCKETS} buckets are fixed: bucket 0 holds values near zero,
each octave of magnitude has {SUB_BUCKETS} buckets of equal width per sign, and -{OVERFLOW} and {OVERFLOW} hold what
is beyond. The midpoint of a bucket is within {RELATIVE_ERROR:.2%} of every value in it. `ics.buckets.bucket_edges`
returns the edges.
"""


def schema_markdown() -> str:
    """Return docs/schema.md: the folder of a run, and every table with its columns, types, units and meanings."""
    return "\n".join([_OPENING, *(_table(table) for table in TABLES.values())])


def _table(table: Table) -> str:
    lines = [f"## {table.name}", "", f"One row per {table.row}."]
    if table.wide:
        lines[-1] += " The user's loop may log further columns of numbers (float64)."
    return "\n".join(
        [*lines, "", "| column | type | unit | meaning | source |", "|---|---|---|---|---|", *_rows(table), ""]
    )


def _rows(table: Table) -> Iterator[str]:
    for column in table.columns:
        yield "| " + " | ".join(_cells(column, is_key=column in table.keys)) + " |"


def _cells(column: Column, *, is_key: bool) -> list[str]:
    key = " (key)" if is_key else ""
    return [f"{column.name}{key}", f"`{column.dtype}`", *map(_escaped, (column.unit, column.meaning, column.source))]


def _escaped(text: str) -> str:
    """Keep bars from ending the cell, and what stands in angle brackets from being taken for HTML."""
    return text.replace("|", "\\|").replace("<", "\\<")
