"""`ics claims`: the list, one claim, a run, the page, and mistakes."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import typer

from ics.claims import BUDGETS, CLAIMS, Effect, Evidence, registry, value
from ics.claims.method import budgets
from ics.cli import app
from ics.cli.claims import EXAMPLES
from ics.ledger import STATEMENTS
from tests.cli.conftest import Command


def made_up(found: Evidence) -> tuple[Effect, ...]:
    numbers = pd.Series(
        {("BatchNorm", seed): 1.21 for seed in range(3)} | {("standard", seed): 1.0 for seed in range(3)}
    )
    return tuple(
        value(numbers, net, measure=measure, meaning="growth", unit="1")
        for net, measure in (("BatchNorm", "growth"), ("standard", "growth_without"))
    )


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in which C29 can be run without training anything."""
    monkeypatch.setitem(registry.CLAIMS, "C29", replace(CLAIMS["C29"], studies=lambda budget: (), evidence=made_up))  # type: ignore[arg-type]
    return tmp_path / "claims"


def test_the_list_has_every_claim_before_anything_was_run(run_ics: Command, tmp_path: Path) -> None:
    outcome = run_ics("claims", "--to", tmp_path / "nothing")
    assert outcome.status == 0
    assert all(name in outcome.out for name in STATEMENTS)
    assert "not run yet" in outcome.out
    assert f"0 of {len(STATEMENTS)} have a verdict" in outcome.out


def test_a_run_is_judged_listed_shown_and_reported(run_ics: Command, ledger: Path, tmp_path: Path) -> None:
    outcome = run_ics("claims", "run", "c29", "--to", ledger, "--workers", 1)
    assert outcome.status == 0, outcome.err
    assert "C29 supported by growth within" in outcome.out
    assert f"1 of {len(STATEMENTS)} have a verdict" in run_ics("claims", "--to", ledger).out
    assert f"0 of {len(STATEMENTS)} have a verdict" in run_ics("claims", "--to", ledger, "--budget", "cpu").out
    shown = run_ics("claims", "show", "C29", "--to", ledger).out
    assert "supported under the budget quick" in shown
    assert "command: ics claims run c29 --budget quick" in shown
    page = tmp_path / "pages" / "claims.html"
    assert run_ics("claims", "report", "-o", page, "--to", ledger).status == 0
    html = page.read_text()
    assert html.count('href="#C29"') == 1
    assert "✓ supported" in html
    assert f"{len(STATEMENTS)} claims: 1 supported; {len(STATEMENTS) - 1} without a verdict." in html


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run", "C77"], "no claim is named 'C77'"),
        (["run", "C29", "--budget", "quik"], "no budget is named 'quik'; did you mean 'quick'"),
        (["run", "C29", "--seeds", "0"], "--seeds is at least 1, got 0"),
        (["run", "C29", "--images", "nowhere.tar"], "nowhere.tar, which is not there"),
        (["run"], "Missing argument"),
        (["show", "C99"], "no claim is named 'C99'"),
        (["show", "C29", "--budget", "big"], "no budget is named 'big'"),
        (["report"], "got none; type ics claims run all"),
        (["shw"], "No such command 'shw'"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], part: str, run_ics: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert part in run_ics("claims", *arguments).mistake


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_command_has_help_that_ends_with_an_example_whose_options_exist(name: str, run_ics: Command) -> None:
    words = [] if name == "claims" else [name]
    out = " ".join(run_ics("claims", *words, "--help").out.split())
    assert out.endswith(f"Example: {EXAMPLES[name]}")
    group = typer.main.get_command(app).commands["claims"]  # type: ignore[attr-defined]
    program, command, *arguments = shlex.split(EXAMPLES[name])
    assert (program, command) == ("ics", "claims")
    parser = group if name == "claims" else group.commands[name]
    parser.make_context(name, arguments[len(words) :])


def test_cpu_without_images_says_so(run_ics: Command, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(budgets.IMAGES_VARIABLE, raising=False)
    outcome = run_ics("claims", "run", "C29", "--budget", "cpu", "--to", ledger, "--workers", 1)
    assert "No images were given" in outcome.err
    assert BUDGETS["cpu"].num_seeds == 5
