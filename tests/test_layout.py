"""The layout: small folders, one name per quantity, imports that never go up or in a circle."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ics.schema import TABLES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ics"
MOST_FILES = 20
LEAST_LINES, MOST_LINES = 40, 400

QUANTITIES = {"training" if table == "steps" else table for table in TABLES} | {"comparison"}
"""What is measured, and what is derived of several measurements: each has this one name in every folder."""

METHODS = {
    "landscape/measures": {"hessian", "layerwise", "linearised", "slices", "zero_gradients"},
    "analysis": {"frames", "headline", "histograms", "run_measures", "run_tables", "step_measures"},
    "plots": {"style", "html_page"},
}
"""Files beside those of quantities: what these share."""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports, wherever in it and for whatever use."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in inside if {name, node.module} & known.keys())


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (Tarjan's algorithm)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            group = [stack.pop()]
            while group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in number:
            visit(name)
    return found


def test_no_folder_is_a_heap() -> None:
    crowded = {}
    for folder in [PACKAGE, ROOT / "tests", ROOT / "scripts"]:
        for inside in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            files = [path.name for path in inside.glob("*.py") if not re.match(r"(test_)?c\d\d_", path.name)]
            if len(files) > MOST_FILES:
                crowded[str(inside.relative_to(ROOT))] = len(files)
    assert not crowded


def test_a_file_is_neither_a_fragment_nor_a_heap() -> None:
    sizes = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in modules().values()}
    contents = ("__init__.py", "__main__.py")
    assert not {name: size for name, size in sizes.items() if size > MOST_LINES}
    assert not {name: size for name, size in sizes.items() if size < LEAST_LINES and not name.endswith(contents)}


def test_no_files_import_each_other() -> None:
    known = modules()
    # ics/__init__.py loads names when they are used, and importing any module runs it: it is no part of a circle.
    graph = {
        name: {other for other in imported(path, known) if other not in (name, "ics")} - {name}
        for name, path in known.items()
        if name != "ics"
    }
    assert not circles(graph)


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set(), "c": {"a", "b"}}) == []


@pytest.mark.parametrize("folder", METHODS)
def test_one_quantity_has_one_name(folder: str) -> None:
    files = {path.stem for path in (PACKAGE / folder).glob("*.py") if path.stem != "__init__"}
    assert files - METHODS[folder] <= QUANTITIES
    assert METHODS[folder] <= files


@pytest.mark.parametrize("folder", METHODS)
def test_the_tests_of_a_quantity_have_its_name(folder: str) -> None:
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / folder).glob("test_*.py")}
    files = {path.stem for path in (PACKAGE / folder).glob("*.py") if path.stem in QUANTITIES}
    assert files <= tested


def test_no_two_classes_share_a_name() -> None:
    names = Counter(
        node.name
        for path in modules().values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert not {name for name, count in names.items() if count > 1}
