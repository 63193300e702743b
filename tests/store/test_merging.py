"""Merging as a stream gives the rows that sorting everything in memory gives."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ics.schema import TABLES
from ics.store import parts as parts_module
from ics.store.cells import to_rows
from ics.store.layout import Part
from ics.store.merging import merge_parts
from ics.store.ordering import order_by, order_of
from ics.store.parts import write_part
from tests.store.rows import random_columns


def arrow_sorted(rows, table):
    keys = [(name, "ascending") for name in order_of(table)]
    return rows.take(pc.sort_indices(rows, sort_keys=keys))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("group_rows", [3, 64])
def test_merged_parts_are_all_rows_in_order(name, group_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(parts_module, "_GROUP_ROWS", group_rows)
    monkeypatch.setattr(parts_module, "_LEAST_GROUP_ROWS", 1)
    rng, table = np.random.default_rng(0), TABLES[name]
    pieces = [to_rows(table, random_columns(rng, table, num_rows=int(rng.integers(1, 40)))) for _ in range(4)]
    (tmp_path / name).mkdir()
    parts = [Part(tmp_path / name, number, number) for number in range(4)]
    for part, rows in zip(parts, pieces, strict=True):
        write_part(part, rows, table)
    merged = merge_parts(parts, table)
    found = pq.read_table(merged.path)
    wanted = arrow_sorted(pa.concat_tables(pieces), table)
    assert (merged.first, merged.last) == (0, 3)
    assert found.num_rows == wanted.num_rows
    for column in wanted.column_names:  # as bits, NaN being unequal to itself
        assert (
            pa.table({"x": found[column]}).to_pydict().__repr__()
            == pa.table({"x": wanted[column]}).to_pydict().__repr__()
        )
    assert max(pq.read_metadata(merged.path).row_group(0).num_rows, 0) <= group_rows


def test_a_merge_holds_a_row_group_of_each_part_and_not_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(parts_module, "_GROUP_BYTES", 2**18)
    table = TABLES["activations"]
    (tmp_path / "activations").mkdir()
    parts = [Part(tmp_path / "activations", number, number) for number in range(4)]
    for part in parts:
        num_rows = 800
        keys = {"layer": ["a"] * num_rows, "layer_index": [0] * num_rows, "call": [0] * num_rows}
        steps = list(range(part.first * num_rows, (part.first + 1) * num_rows))
        lists = np.random.default_rng(part.first).standard_normal((num_rows, 1000))
        write_part(
            part, to_rows(table, {**keys, "site": ["input"] * num_rows, "step": steps, "channel_m2": lists}), table
        )
    before = pa.total_allocated_bytes()
    seen = []
    real = pq.ParquetWriter.write_table

    def watched(*arguments, **options):
        real(*arguments, **options)
        seen.append(pa.total_allocated_bytes() - before)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", watched)
    merge_parts(parts, table)
    assert len(seen) > 40
    assert max(seen) < 25_600_000 / 4  # the values alone are 25.6 MB


@pytest.mark.parametrize("names", [["text", "number"], ["number", "real", "text"], ["real"], ["flag", "text"]])
def test_the_order_is_arrows(names):
    rng = np.random.default_rng(1)
    choices = {
        "text": ["b", "", "ä", "a", "conv10", "conv2", "\U0001f600", "￿", None],
        "number": [3, -(2**63), 2**63 - 1, 0, None],
        "real": [0.0, -0.0, 1e-300, np.inf, -np.inf, None],
        "flag": [True, False, None],
    }
    table = pa.table({name: [cells[rng.integers(len(cells))] for _ in range(500)] for name, cells in choices.items()})
    chunked = pa.concat_tables([table.slice(0, 123), table.slice(123)])
    wanted = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in names])
    assert order_by(chunked, names).tolist() == wanted.to_pylist()


def test_nothing_has_an_order():
    empty = pa.table({"text": pa.array([], pa.string()), "number": pa.array([], pa.int64())})
    assert order_by(empty, ["text", "number"]).tolist() == []
