"""The pages: every quantity is explained, every link leads somewhere, every path in the file tree is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ics
from ics.recording.instruments import INSTRUMENTS
from ics.schema import TABLES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
METRICS = (ROOT / "docs" / "metrics.md").read_text()
README = (ROOT / "README.md").read_text()


def section(table: str) -> str:
    """The section of metrics.md whose heading names the table."""
    found = re.search(rf"^## [^\n]*table `{table}`\n(.*?)(?=^## |\Z)", METRICS, re.DOTALL | re.MULTILINE)
    assert found, f"no heading of metrics.md names the table {table}"
    return found[1]


def explains(text: str, column: str) -> bool:
    """Whether the text names the column in backticks: whole, or as `_suffix` after a name that has its prefix."""
    names = set(re.findall(r"`([\w.]+)`", text))
    prefixes = {name.removesuffix("...") for name in names if name.endswith("...")}
    suffixed = {first.rpartition("_")[0] + rest for first in names for rest in names if rest.startswith("_")}
    return column in names | suffixed or any(column.startswith(prefix) for prefix in prefixes)


@pytest.mark.parametrize("table", TABLES)
def test_every_stored_quantity_is_explained(table: str) -> None:
    text = section(table)
    if "as in `activations`" in text:
        text += section("activations")
    passed_on = {
        "null_reason",
        "source",
        "kind",
        "of_layer",
        "measured",
    }  # say where a row is from, and measure nothing
    if table != "steps":
        passed_on |= {"learning_rate"}  # of `steps`
    columns = {column.name for column in TABLES[table].values} - passed_on
    assert not {column for column in columns if not explains(text, column)}


def test_a_quantity_that_nobody_explained_would_be_found() -> None:
    assert explains("`floor_l2`, `floor_...`", "floor_cosine")
    assert explains("`channel_batch_mean`, `_variance`", "channel_batch_variance")
    assert not explains("`shift_l2` and shift_cosine", "shift_cosine")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_name_no_host(page: Path) -> None:
    text = page.read_text()
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    assert not [target for target in targets if target and not (page.parent / target).exists()]
    assert not re.findall(r"https?://|www\.", text)


def test_the_file_tree_of_the_readme_is_the_tree() -> None:
    from scripts.file_tree import OUTSIDE, file_tree, with_tree

    assert with_tree(README) == README, "the map in README.md is stale; type python scripts/file_tree.py --write"
    inside = re.findall(r"^      (\S+)", file_tree(), re.MULTILINE)
    here = {path.name + ("/" if path.is_dir() else "") for path in (ROOT / "ics").iterdir()}
    assert {name for name in here if not name.startswith(("_", ".")) and name != "py.typed"} == set(inside)
    assert all((ROOT / name).is_dir() for name in OUTSIDE)


def test_what_an_instrument_costs_is_in_the_readme_or_its_section_of_the_metrics() -> None:
    costs = README.split("## What does it cost me?")[1].split("## ")[0]
    elsewhere = {name for name, kind in INSTRUMENTS.items() if "Cost:" in section(kind.table.name)}
    assert {"activations", "gradient_shift", "curvature"} <= {name for name in INSTRUMENTS if name in costs}
    assert not {name for name in INSTRUMENTS if name not in costs} - elsewhere


def test_the_readme_begins_with_the_two_commands() -> None:
    commands = re.findall(r"^    (scripts/\w+)", README, re.MULTILINE)
    assert commands[:2] == ["scripts/demo", "scripts/test"]
    assert all((ROOT / command).stat().st_mode & 0o111 for command in commands[:2])


def test_the_readme_says_how_the_distribution_is_called_and_why() -> None:
    assert "internal-covariate-shift" in README
    assert "iCalendar" in README


def test_the_picture_of_the_report_is_small() -> None:
    assert (ROOT / "docs" / "report.png").stat().st_size < 400_000


def test_one_shot_functions_are_in_the_readme_or_the_metrics() -> None:
    measuring = {"gradient_shift", "gradient_line", "activation_stats", "sharpness", "attribution", "loss_slice"}
    assert measuring <= set(ics.__all__)
    assert not {name for name in measuring if f"ics.{name}" not in README + METRICS}
