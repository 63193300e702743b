"""docs/schema.md is what the schema says."""

from __future__ import annotations

from pathlib import Path

from ics.schema import SCHEMA_VERSION, TABLES
from ics.store import schema_markdown

PAGE = Path(__file__).parents[2] / "docs" / "schema.md"
COMMAND = "python -c \"from ics.store import schema_markdown as page; print(page(), end='')\" > docs/schema.md"


def test_the_written_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == schema_markdown(), f"docs/schema.md is stale; type {COMMAND}"


def test_every_column_has_a_row_of_five_cells_in_its_table():
    sections = {section.splitlines()[0]: section for section in schema_markdown().split("\n## ")}
    assert f"Schema version {SCHEMA_VERSION}." in schema_markdown()
    for table in TABLES.values():
        lines = [line for line in sections[table.name].splitlines() if line.startswith("|")][2:]
        assert len(lines) == len(table.columns)
        for line, column in zip(lines, table.columns, strict=True):
            cells = [cell.strip() for cell in line.replace("\\|", "\0").split("|")[1:-1]]
            assert len(cells) == 5
            assert cells[0] == column.name + (" (key)" if column in table.keys else "")
            assert cells[1] == f"`{column.dtype}`"
            assert cells[3].replace("\0", "|").replace("\\<", "<") == column.meaning
