"""Other programs on the same folder: every example of docs/reading.md runs, and they find what `ics` finds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
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
def test_the_encodings_are_those_that_readers_in_use_understand(name, tmp_path):
    """Spark 4.0 and fastparquet refuse BYTE_STREAM_SPLIT, and polars 1.0 DELTA_BINARY_PACKED in lists."""
    writer = Writer(tmp_path / "run", info={})
    writer.append(name, random_columns(np.random.default_rng(4), TABLES[name], num_rows=30))
    writer.close()
    (path,) = (tmp_path / "run" / name).iterdir()
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    encodings = {column.path_in_schema: set(column.encodings) for column in columns}
    assert encodings.pop("histogram_bucket.list.element", {"RLE", "DELTA_BINARY_PACKED"}) == {
        "RLE",
        "DELTA_BINARY_PACKED",
    }
    assert set.union(*encodings.values()) <= {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY"}
    assert {column.compression for column in columns} == {"ZSTD"}


def test_parts_of_the_encodings_written_before_are_read_as_they_were(tmp_path, monkeypatch):
    def split(schema):
        numbers = [
            field for field in schema if not pa.types.is_string(field.type) and not pa.types.is_boolean(field.type)
        ]
        names = [f"{one.name}.list.element" if pa.types.is_list(one.type) else one.name for one in numbers]
        return dict.fromkeys(names, "BYTE_STREAM_SPLIT")

    columns = random_columns(np.random.default_rng(5), TABLES["activations"], num_rows=40)
    found = []
    for encodings in (parts._encodings, split):
        monkeypatch.setattr(parts, "_encodings", encodings)
        writer = Writer(tmp_path / encodings.__name__, info={})
        writer.append("activations", columns)
        writer.close()
        found.append(open_run(tmp_path / encodings.__name__).arrow("activations"))
    (path,) = (tmp_path / "split" / "activations").iterdir()
    assert "BYTE_STREAM_SPLIT" in pq.read_metadata(path).row_group(0).column(0).encodings
    assert repr(found[0].to_pylist()) == repr(found[1].to_pylist())


@pytest.mark.parametrize("name", TABLES)
def test_polars_reads_every_column_of_every_table(name, tmp_path):
    polars = pytest.importorskip("polars", reason="polars is not installed: pip install polars")
    writer = Writer(tmp_path / "run", info={})
    writer.append(name, random_columns(np.random.default_rng(6), TABLES[name], num_rows=60))
    writer.close()
    wanted = open_run(tmp_path / "run").arrow(name)
    found = polars.read_parquet(tmp_path / "run" / name / "*.parquet").to_dict(as_series=False)
    assert list(found) == wanted.column_names
    for column in wanted.column_names:
        assert repr(found[column]) == repr(wanted[column].to_pylist()), column


@pytest.mark.filterwarnings("ignore:.*fastparquet.*deprecated")
def test_fastparquet_reads_the_rows_of_a_run(folder):
    pytest.importorskip("fastparquet", reason="fastparquet is not installed: pip install fastparquet")
    found = pd.read_parquet(next((folder / "runs/vgg-0/activations").iterdir()), engine="fastparquet")
    wanted = open_run(folder / "runs/vgg-0").table("activations")
    assert found[["step", "layer", "mean"]].values.tolist() == wanted[["step", "layer", "mean"]].values.tolist()
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
