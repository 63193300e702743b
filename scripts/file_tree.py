"""The map of folders in README.md, made from the first sentences of the docstrings.

python scripts/file_tree.py            # print it
python scripts/file_tree.py --write    # put it into README.md, whose test fails where it is stale
"""

from __future__ import annotations

import argparse
import ast
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
HEADING = "## What is where\n\n"
OUTSIDE = {
    "scripts/": "demo, test; what made the published results and benchmarks in docs/",
    "ics/": "",
    "docs/": "design, metrics, schema, contributing",
    "notebooks/": "executed; their sources beside them",
    "tests/": "mirrors ics/; tests/reference holds the slow, obvious versions",
}
_WIDTH = 21  # of the names
_LINE = 125


def file_tree() -> str:
    """Return the map: the folders of the repository, and the modules and packages directly in `ics`."""
    lines = []
    for name, meaning in OUTSIDE.items():
        lines += _entry(name, meaning, indent=4)
        if name == "ics/":
            for path in _inside():
                lines += _entry(path.name + ("/" if path.is_dir() else ""), _first_sentence(path), indent=6)
    return "\n".join(lines) + "\n"


def with_tree(readme: str) -> str:
    """Return the text of README.md with the map of today."""
    before, _, rest = readme.partition(HEADING)
    _, _, after = rest.partition("\n\n")
    return f"{before}{HEADING}{file_tree()}\n{after}"


def _inside() -> list[Path]:
    """Return single modules first, then packages, each by name."""
    ours = [
        path for path in (ROOT / "ics").iterdir() if not path.name.startswith(("_", ".")) and path.name != "py.typed"
    ]
    return sorted(ours, key=lambda path: (path.is_dir(), path.name))


def _first_sentence(path: Path) -> str:
    source = path / "__init__.py" if path.is_dir() else path
    first_line = (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return first_line.partition(". ")[0].rstrip(".")


def _entry(name: str, meaning: str, *, indent: int) -> list[str]:
    start = f"{'':{indent}}{name:<{_WIDTH + 6 - indent}}"
    return textwrap.wrap(start + meaning, _LINE, subsequent_indent=" " * (_WIDTH + 6)) if meaning else [start.rstrip()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    if parser.parse_args().write:
        README.write_text(with_tree(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(file_tree(), end="")
