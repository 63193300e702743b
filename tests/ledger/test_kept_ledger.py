"""The ledger in docs/claims: whole, without traces of a machine, and its verdicts follow from its numbers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from torch import nn

from ics.claims import BUDGETS, CLAIMS, Effect, Outcome, decide
from ics.experiments import load_model
from ics.ledger import STATEMENTS, Entry, details, effects_frame, entry_path, latest, overview, read_ledger
from ics.plots.ledger.markdown import ledger_markdown

FOLDER = Path(__file__).parents[2] / "docs" / "claims"
ENTRIES = latest(read_ledger(FOLDER), budget="cpu")


def effects_of(entry: Entry) -> list[Effect]:
    """The effects from the values of every seed alone: estimates and votes are made anew."""
    kept = {(row["measure"], row.get("setting")): row for row in entry.effects if "values" in row}
    return [
        Effect(
            **{name: row[name] for name in ("measure", "meaning", "unit", "scale", "setting", "note")},
            values=tuple((seed, number) for seed, number in row["values"]),
        )
        for row in kept.values()
    ]


def test_every_claim_is_there_with_the_seeds_that_its_budget_asks_for() -> None:
    assert list(ENTRIES) == list(STATEMENTS)
    seeds = list(range(BUDGETS["cpu"].num_seeds))
    assert len(seeds) >= 5
    for entry in ENTRIES.values():
        assert entry.seeds == seeds
        most = max(int(row["n"]) + int(row["num_undefined"]) for row in entry.effects if "n" in row)
        assert most == len(seeds), entry.id
        assert "--images cifar10-jpeg.tar.xz" in entry.command
        assert entry.nets or entry.studies


@pytest.mark.parametrize("name", ENTRIES)
def test_a_verdict_follows_from_the_numbers_by_the_rule_of_today(name: str) -> None:
    entry = ENTRIES[name]
    verdict = decide(effects_of(entry), CLAIMS[name].rule)
    assert verdict.outcome is Outcome(entry.outcome)
    assert verdict.reason == entry.reason
    assert verdict.seeds_needed == entry.seeds_needed


@pytest.mark.parametrize("name", ENTRIES)
def test_the_parquet_table_holds_the_same_numbers(name: str) -> None:
    table = pd.read_parquet(entry_path(FOLDER, "cpu", name).with_suffix(".parquet"))
    kept = {(row.measure, row.setting, row.seed): row.value for row in table.itertuples()}
    told = {
        (effect.measure, effect.setting, seed): number
        for effect in effects_of(ENTRIES[name])
        for seed, number in effect.values
    }
    assert kept.keys() == told.keys()
    for key, number in told.items():
        assert kept[key] == number or (math.isnan(kept[key]) and math.isnan(number))


def test_nothing_in_it_is_of_one_machine() -> None:
    for path in (FOLDER / "ledger").rglob("*.json"):
        assert not re.search(r'"[^"]*(/home|/root|/tmp|/work|/Users)[^"]*"', path.read_text()), path.name


def test_the_page_in_markdown_is_made_from_it() -> None:
    page = ledger_markdown(overview(ENTRIES), details(ENTRIES), effects_frame(ENTRIES))
    again = "ics claims report --to docs/claims --budget cpu -o docs/claims/verdicts.md"
    assert (FOLDER / "verdicts.md").read_text() == page, f"type {again}"


def test_the_summary_in_words_counts_as_the_ledger_does() -> None:
    counts = pd.Series([entry.outcome for entry in ENTRIES.values()]).value_counts()
    told = f"{counts['supported']} claims are supported, {counts['mixed']} mixed, {counts['inconclusive']} inconclusive"
    assert told in " ".join((FOLDER / "README.md").read_text().split())


def test_the_analytic_claims_come_out_right() -> None:
    for name in ("C08", "C27", "C29"):
        assert ENTRIES[name].outcome == "supported"
    first_steps = [row for row in ENTRIES["C25"].effects if row.get("exact")]
    assert len(first_steps) >= 3
    assert {row["vote"] for row in first_steps} == {"supported"}


def test_models_that_the_ledger_names_by_their_path_can_be_made() -> None:
    models = {str(settings["model"]) for entry in ENTRIES.values() for settings in entry.nets.values()}
    by_path = [name for name in sorted(models) if ":" in name]
    assert "ics.experiments.claims.nets:small_vgg" in by_path  # stored before this model moved
    for name in by_path:
        assert isinstance(load_model(name, input_shape=(3, 16, 16)), nn.Module)
