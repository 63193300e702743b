"""The files around the code agree with it: one version, one list of checks, one list of Pythons; none names a host."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import ics

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
CITATION = (ROOT / "CITATION.cff").read_text()
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text()
WORKFLOW = (ROOT / ".github" / "workflows" / "test.yml").read_text()
TEST = (ROOT / "scripts" / "test").read_text()


def test_the_version_stands_once_and_the_other_files_agree() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ics.__version__"}
    assert re.findall(r"^version: (.+)$", CITATION, re.MULTILINE) == [ics.__version__]
    headings = re.findall(r"^## \[(.+?)\]", CHANGELOG, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert ics.__version__ in headings


def test_a_citation_has_what_its_format_demands() -> None:
    keys = set(re.findall(r"^([\w-]+):", CITATION, re.MULTILINE))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= keys
    assert f"license: {PROJECT['project']['license']}" in CITATION


def test_the_hooks_before_a_commit_are_the_checks_of_scripts_test() -> None:
    checks = re.findall(r"^ +check (.+)$", TEST, re.MULTILINE)
    assert checks == ["ruff check", "ruff format --check", "mypy", "lint-imports"]
    assert re.findall(r"entry: \.venv/bin/(.+)", HOOKS) == checks
    assert HOOKS.count("repo:") == HOOKS.count("repo: local")


def test_the_workflow_runs_every_python_that_is_claimed() -> None:
    claimed = [line.split()[-1] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line]
    (matrix,) = re.findall(r"python: \[(.+)\]", WORKFLOW)
    assert re.findall(r"[\d.]+", matrix) == claimed
    assert PROJECT["project"]["requires-python"] == f">={claimed[0]}"
    assert set(re.findall(r"run: (\S+)", WORKFLOW)) == {".ci/run"}


def test_each_option_of_scripts_test_is_documented() -> None:
    options = re.findall(r"^ +(--[a-z]+)\)", TEST, re.MULTILINE)
    header = TEST.split("set -euo")[0]
    page = (ROOT / "docs" / "contributing.md").read_text()
    assert len(options) == 4
    assert not [option for option in options if f"scripts/test {option}" not in header]
    assert not [option for option in options if f"scripts/test {option}" not in page]


def test_numba_is_an_ordinary_dependency() -> None:
    assert any(one.startswith("numba") for one in PROJECT["project"]["dependencies"])


@pytest.mark.parametrize("text", [CHANGELOG, CITATION, HOOKS, WORKFLOW, (ROOT / "SECURITY.md").read_text()])
def test_no_file_names_a_host(text: str) -> None:
    assert not re.findall(r"https?://|www\.|pypi", text)


@pytest.mark.parametrize("path", [*(ROOT / "ics").rglob("*.py"), *(ROOT / "tests").rglob("test_*.py")], ids=str)
def test_no_message_tells_to_install_this_distribution_from_an_index(path: Path) -> None:
    assert not re.findall(r"pip install[^\n]*internal-covariate-" + "shift", path.read_text())
