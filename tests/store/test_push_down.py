"""A reader touches only the columns and row groups it needs.

The surest proof is to spoil everything else: bytes that are read fail their checksum.
"""

from __future__ import annotations

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from ics.errors import DamagedPartError
from ics.store import Writer, open_run, parts
from tests.store.rows import site_rows

LAYERS = [f"conv{number}" for number in range(12)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_GROUP_ROWS", 100)
    writer = Writer(tmp_path / "run", info={})
    for step in range(100):
        writer.append("activations", site_rows(step, layers=LAYERS))
        if step % 10 == 9:
            writer.flush()
    writer.close()
    return open_run(tmp_path / "run")


def part_of(run):
    (path,) = (run.path / "activations").iterdir()
    return path


def spoil(path, wanted):
    """Overwrite every page of every column chunk but those for which `wanted(group, column)` holds."""
    metadata = pq.read_metadata(path)
    data = bytearray(path.read_bytes())
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for position in range(group.num_columns):
            chunk = group.column(position)
            if not wanted(number, chunk.path_in_schema.split(".")[0]):
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)


def groups_of(run, layer):
    """Row groups whose rows are of a layer, found by reading each."""
    file = pq.ParquetFile(part_of(run))
    layers = [set(file.read_row_group(number)["layer"].to_pylist()) for number in range(file.num_row_groups)]
    return {number for number, names in enumerate(layers) if layer in names}


@pytest.mark.parametrize(
    "where", [{"layer": "conv7"}, {"layer": ["conv7"]}, [("layer", "=", "conv7"), ("step", "<", 90)]]
)
def test_one_column_of_one_layer_reads_nothing_else(run, where):
    before = run.table("activations", columns=["step", "mean"], where=where)
    assert len(before) in (200, 180)
    groups = groups_of(run, "conv7")
    assert len(groups) <= 3
    assert pq.read_metadata(part_of(run)).num_row_groups == 24
    spoil(part_of(run), lambda group, column: group in groups and column in ("step", "layer", "mean"))
    after = run.table("activations", columns=["step", "mean"], where=where)
    assert after.equals(before)
    with pytest.raises(DamagedPartError):
        run.table("activations", columns=["step", "mean"], where={"layer": ["conv7", "conv1"]})
    with pytest.raises(DamagedPartError):
        run.table("activations", columns=["m2"], where=where)


def test_several_layers_read_their_row_groups_only(run):
    wanted = {"layer": ["conv2", "conv9"], "site": "input"}
    before = run.table("activations", columns=["channel_mean"], where=wanted)
    groups = groups_of(run, "conv2") | groups_of(run, "conv9")
    columns = ("layer", "site", "channel_mean")
    spoil(part_of(run), lambda group, column: group in groups and column in columns)
    after = run.table("activations", columns=["channel_mean"], where=wanted)
    assert np.array_equal(np.stack(after["channel_mean"]), np.stack(before["channel_mean"]))


def test_steps_within_a_layer_are_told_apart_by_row_group_statistics(run):
    fragment = next(ds.dataset(part_of(run)).get_fragments())
    everything = len(fragment.split_by_row_group())
    some = len(fragment.split_by_row_group((ds.field("layer") == "conv7") & (ds.field("step") < 10)))
    assert everything == 24
    assert some <= 3


def test_rows_with_long_lists_make_smaller_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_GROUP_BYTES", 2**20)
    sizes = {}
    for length in (0, 1000):
        writer = Writer(tmp_path / str(length), info={})
        for step in range(40):
            rows = site_rows(step, layers=LAYERS)
            writer.append("activations", {**rows, "channel_m2": [np.ones(length)] * len(rows["step"])})
        writer.close()
        metadata = pq.read_metadata(part_of(open_run(tmp_path / str(length))))
        sizes[length] = max(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    assert sizes[0] == 960
    assert 64 <= sizes[1000] <= 2**20 // 8000
