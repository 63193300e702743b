"""The rules, held against the source: imports, public names, sizes, docstrings, and what loads torch."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import ics

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "ics").rglob("*.py"))
MODULES = sorted(module.name for module in pkgutil.walk_packages(ics.__path__, "ics.") if "__main__" not in module.name)
PACKAGES = ["ics", *(name for name in MODULES if (ROOT / name.replace(".", "/") / "__init__.py").exists())]
MAX_LINES = 400
MAX_FUNCTION = 60
HEAVY = (
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "matplotlib",
    "seaborn",
    "rich",
    "typer",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[Function]:
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def without_docstring(function: Function) -> list[ast.stmt]:
    return function.body[1:] if ast.get_docstring(function) else function.body


def public_definitions(body: list[ast.stmt], *, inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Functions and classes, and the methods of those classes, whose names do not start with an underscore."""
    for node in body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield f"{inside}{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node.body, inside=f"{node.name}.")


def run_python(program: str, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def test_packages_import_only_from_lower_layers() -> None:
    # In a process of its own: the linter switches off the loggers that it finds, ours too.
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(cache_dir=None))"
    result = run_python(program)
    assert result.returncode == 0, result.stdout + result.stderr


def test_only_the_hooks_module_registers_hooks() -> None:
    # A training is written as a user would write it, and its own hooks change it on purpose; all others must not.
    measuring = [path for path in SOURCES if not identify(path).startswith(("ics/experiments/", "ics/claims/"))]
    registering = {identify(path) for path in measuring if re.search(r"\.register_\w*hook\w*\(", path.read_text())}
    assert registering == {"ics/probes/hooks.py"}


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_LINES
    for function in functions(ast.parse(text)):
        body = without_docstring(function)
        length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        assert length <= MAX_FUNCTION, f"{function.name} has {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_what_is_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body, "the module has none"
    missing = [name for name, node in public_definitions(tree.body) if not ast.get_docstring(node)]  # type: ignore[arg-type]
    assert not missing


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))], ids=identify)
def test_nothing_is_left_for_later(path: Path) -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "x" + "fail")
    left = [line for line in path.read_text().splitlines() if any(re.search(rf"\b{mark}\b", line) for mark in marks)]
    assert not left


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_can_be_had(name: str) -> None:
    package = importlib.import_module(name)
    listed = list(package.__all__)
    assert len(listed) == len(set(listed))
    missing = [public for public in listed if not hasattr(package, public)]
    assert not missing


@pytest.mark.parametrize("name", [name for name in PACKAGES if name not in ("ics", "ics.cli")])
def test_a_package_lists_all_that_its_table_of_contents_imports(name: str) -> None:
    package = importlib.import_module(name)
    own = {key for key, value in vars(package).items() if not key.startswith("_") and not isinstance(value, ModuleType)}
    assert own - {"annotations"} == set(package.__all__) - {
        key for key, value in vars(package).items() if isinstance(value, ModuleType)
    }


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'recorder'"):
        _ = ics.recorder


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import sys; before = set(sys.modules); import ics; print(*sorted(set(sys.modules) - before))"
    loaded = run_python(program).stdout.split()
    assert "ics" in loaded
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)
    # Its lightest dependency is typer: importing ics loads fewer modules than importing that.
    lightest = run_python(program.replace("import ics", "import typer")).stdout.split()
    assert len(loaded) < len(lightest)


def test_the_command_starts_without_anything_heavy_but_typer() -> None:
    program = "import sys; from ics.cli import main; main(['--help']); print(*sorted(sys.modules))"
    loaded = {name.partition(".")[0] for name in run_python(program).stdout.splitlines()[-1].split()}
    assert loaded & set(HEAVY) <= {"rich", "typer"}


def test_the_frame_packages_load_no_torch() -> None:
    packages = "ics.errors, ics.schema, ics.buckets, ics.records, ics.store, ics.analysis, ics.ledger, ics.plots"
    result = run_python(f"import sys, {packages}; print('torch' in sys.modules)")
    assert result.stdout.split() == ["False"], result.stderr


@pytest.mark.parametrize("arguments", [["claims"], ["claims", "report"]])
def test_reading_the_ledger_loads_no_torch(arguments: list[str], tmp_path: Path) -> None:
    from ics.ledger import Entry, write_entry

    plain = dict.fromkeys(("outcome", "reason", "published", "remark", "command"), "supported")
    empty = {"seeds": [0], "effects": [], "nets": {}, "studies": {}, "notes": [], "versions": {}}
    made = {"id": "C07", "budget": "quick", "seeds_needed": None, "date": "2026-01-01T00:00:00", "seconds": 1.0}
    write_entry(tmp_path, Entry(**plain, **empty, **made))
    page = ["-o", str(tmp_path / "page.html")] if "report" in arguments else []
    program = (
        f"import sys; from ics.cli import main; "
        f"status = main({[*arguments, *page, '--to', str(tmp_path)]!r}); print(status, 'torch' in sys.modules)"
    )
    result = run_python(program)
    assert result.stdout.split()[-2:] == ["0", "False"], result.stderr


def test_statistics_probes_and_landscape_load_no_frames() -> None:
    # torch itself loads none of these, so what is found was loaded by a package.
    packages = "ics.stats, ics.probes, ics.landscape"
    result = run_python(
        f"import sys, {packages}; print(*{{'pandas', 'pyarrow', 'matplotlib', 'seaborn'}} & set(sys.modules))"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
