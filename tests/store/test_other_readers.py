"""Other programs on the same folder: every example of docs/reading.md runs, and DuckDB finds what `ics` finds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ics.schema import TABLES
from ics.store import Writer, open_run, open_runs, parts
from tests.store.rows import random_columns, site_rows, write_run
from tests.store.test_push_down import spoil

PAGE = Path(__file__).parents[2] / "docs" / "reading.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed: pip install duckdb")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for seed, name in enumerate(["vgg-0", "vgg-bn-0"]):
        write_run(tmp_path / "runs" / name, steps=5, config={"seed": seed, "net": name})
        writer = Writer(tmp_path / "runs" / f"{name}-shift", info={"config": {"seed": seed}})
        writer.append("gradient_shift", {"step": [0], "layer": ["a"], "layer_index": [0], "parameters": ["all"]})
        writer.close()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_example_of_the_page_runs(folder):
    names: dict[str, object] = {}
    ran = 0
    for block in BLOCKS:
        if "import polars" in block:
            try:
                import polars  # noqa: F401
            except ImportError:
                continue
        exec(block, names)
        ran += 1
    assert ran >= len(BLOCKS) - 1 >= 8
    assert list(names["mean"]["step"].unique()) == [2, 3, 4]


def test_duckdb_finds_the_rows_that_ics_finds(folder):
    found = duckdb.sql("""
        select parse_path(filename)[-3] as run, step, mean, channel_mean
        from read_parquet('runs/*/activations/*.parquet', filename = true, union_by_name = true)
        where layer = 'conv2' and site = 'input' order by run, step
    """).df()
    wanted = open_runs(folder / "runs").table(
        "activations",
        columns=["run", "step", "mean", "channel_mean"],
        where={"layer": "conv2", "site": "input", "run": ["vgg-0", "vgg-bn-0"]},
    )
    assert found[["run", "step", "mean"]].values.tolist() == wanted[["run", "step", "mean"]].values.tolist()
    assert [list(cell) for cell in found["channel_mean"]] == [list(cell) for cell in wanted["channel_mean"]]


@pytest.mark.parametrize("name", TABLES)
def test_duckdb_reads_every_column_of_every_table(name, tmp_path):
    """All encodings: the cells come back as they went in, null and NaN apart."""
    rng = np.random.default_rng(3)
    writer = Writer(tmp_path / "run", info={})
    for _ in range(3):
        writer.append(name, random_columns(rng, TABLES[name], num_rows=30))
        writer.flush()
    writer.close()
    wanted = open_run(tmp_path / "run").arrow(name)
    found = duckdb.sql(f"select * from '{tmp_path}/run/{name}/*.parquet'").to_arrow_table()
    assert found.column_names == wanted.column_names
    for column in wanted.column_names:
        assert repr(found[column].to_pylist()) == repr(wanted[column].to_pylist()), column


def test_duckdb_touches_only_the_row_groups_of_the_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_GROUP_ROWS", 100)
    layers = [f"conv{number}" for number in range(12)]
    writer = Writer(tmp_path, info={})
    for step in range(100):
        writer.append("activations", site_rows(step, layers=layers))
    writer.close()
    (path,) = (tmp_path / "activations").iterdir()
    query = f"select step, mean from '{path}' where layer = 'conv7' and site = 'input' order by step"
    before = duckdb.sql(query).fetchall()
    file = pq.ParquetFile(path)
    groups = {n for n in range(file.num_row_groups) if "conv7" in file.read_row_group(n)["layer"].to_pylist()}
    spoil(path, lambda group, column: group in groups and column in ("step", "layer", "site", "mean"))
    assert duckdb.connect().sql(query).fetchall() == before
    with pytest.raises(duckdb.Error):
        duckdb.connect().sql(query.replace("conv7", "conv1")).fetchall()
