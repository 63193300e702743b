"""Running claims: what is there is reused, what is broken made again, what fails told, and all of it entered."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import ics
from ics.claims import (
    BUDGETS,
    Claim,
    ClaimBudget,
    Effect,
    Evidence,
    MissingEvidenceError,
    Study,
    below,
    final_loss,
    ratio,
    run_claims,
    value,
    weigh,
)
from ics.claims.method.runs import identity, is_run_done, make_run, reader_of, run_folder
from ics.errors import StoreError, UsageError
from ics.experiments import RunConfig, recipe
from ics.ledger import STATEMENTS, Entry, entry_path, latest, overview, read_ledger

TWO_SEEDS = replace(BUDGETS["quick"], num_seeds=2, steps=2)


def tiny(norm: str, **changes: object) -> RunConfig:
    settings = {"steps": 2, "hidden": (4,), "batch_size": 16, "instruments": {}, "evaluate_every": 0} | changes
    return recipe("digits-mlp", norm=norm, **settings)


def two_nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    return tuple(tiny(norm, steps=budget.steps) for norm in ("none", "batch"))


def compare_losses(found: Evidence) -> tuple[Effect, ...]:
    return (ratio(final_loss(found), "BatchNorm", "standard", measure="loss", meaning="final loss"),)


CLAIM = Claim(
    id="C10", nets=two_nets, evidence=compare_losses, rule=(below("loss", 0.9),), published="faster", remark="tiny"
)


def drawn(*, seed: int, mean: float) -> pd.DataFrame:
    """A study: one number."""
    return pd.DataFrame({"net": ["any"], "x": [mean + seed]})


def failing(*, seed: int) -> pd.DataFrame:
    """A study that fails for one seed."""
    if seed == 1:
        raise UsageError("expected luck, got seed 1")
    return pd.DataFrame({"net": ["any"], "x": [1.0]})


def study_claim(function: str, **settings: float) -> Claim:
    study = Study(name="draw", function=f"{__name__}:{function}", settings=settings)

    def evidence(found: Evidence) -> tuple[Effect, ...]:
        rows = found.study("draw").set_index(["net", "seed"])["x"]
        return (value(rows, "any", measure="x"),)

    return Claim(id="C31", studies=lambda budget: (study,), evidence=evidence, rule=(below("x", 100.0),))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the claim was run once."""
    folder = tmp_path_factory.mktemp("claims")
    run_claims([CLAIM], budget=TWO_SEEDS, to=folder, workers=1, command="ics claims run C10")
    return folder


def times_of(folder: Path) -> dict[str, int]:
    """When each run was written last."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (folder / "runs").glob("*/run.json")}


def test_an_entry_says_all_that_is_needed_to_find_it_again(root: Path) -> None:
    (entry,) = read_ledger(root)
    assert (entry.id, entry.budget, entry.seeds, entry.command) == ("C10", "quick", [0, 1], "ics claims run C10")
    assert entry.outcome == "inconclusive"  # two seeds decide nothing
    assert entry.nets["BatchNorm"]["norm"] == "batch"
    assert set(entry.versions) >= {"ics", "torch", "python", "processor"}
    commits = {run.info["git_commit"] for run in ics.open_runs(f"{root}/runs/*")} - {None}
    assert len(commits) == len(entry.commits) <= 1  # none where the project lies in no repository
    assert all(commit.startswith(short) for commit, short in zip(commits, entry.commits, strict=True))
    assert entry.nets_told["BatchNorm"].startswith("mlp 4 relu on digits, norm batch, 2 steps of batch 16")
    (effect,) = entry.effects
    losses = {
        (run.info["config"]["net"], run.info["seed"]): run.table("steps")["loss"].iloc[-1]
        for run in ics.open_runs(f"{root}/runs/*")
    }
    by_hand = [losses["BatchNorm", seed] / losses["standard", seed] for seed in (0, 1)]
    assert [number for _, number in effect["values"]] == pytest.approx(by_hand, rel=1e-12)
    table = pd.read_parquet(entry_path(root, "quick", "C10").with_suffix(".parquet"))
    assert table["value"].tolist() == pytest.approx(by_hand, rel=1e-12)
    assert table["seed"].tolist() == [0, 1]


def test_what_is_there_is_not_run_again(root: Path) -> None:
    before = times_of(root)
    run_claims([CLAIM], budget=TWO_SEEDS, to=root, workers=1)
    assert times_of(root) == before


def test_more_seeds_add_runs_and_keep_the_others(root: Path) -> None:
    before = times_of(root)
    (entry,) = run_claims([CLAIM], budget=replace(TWO_SEEDS, num_seeds=3), to=root, workers=1)
    after = times_of(root)
    assert len(after) == len(before) + 2
    assert {name: after[name] for name in before} == before
    assert entry.seeds == [0, 1, 2]
    assert entry.effects[0]["n"] == 3


def test_claims_that_call_equal_nets_otherwise_share_their_runs(root: Path) -> None:
    before = times_of(root)

    def renamed(budget: ClaimBudget) -> tuple[RunConfig, ...]:
        return tuple(config.replace(net=f"my {config.net}") for config in two_nets(budget))

    def evidence(found: Evidence) -> tuple[Effect, ...]:
        return (ratio(final_loss(found), "my BatchNorm", "my standard", measure="loss"),)

    other = Claim(id="C11", nets=renamed, evidence=evidence, rule=(below("loss", 0.9),))
    (entry,) = run_claims([other], budget=TWO_SEEDS, to=root, workers=1)
    assert times_of(root) == before
    assert entry.effects[0]["meaning"] == "my BatchNorm / my standard"


def test_a_broken_run_is_made_again(tmp_path: Path) -> None:
    config = tiny("none")
    folder = run_folder(tmp_path, config)
    make_run(config, folder)
    assert is_run_done(config, folder)
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | {"state": "running"}))
    assert not is_run_done(config, folder)
    make_run(config, folder)
    assert is_run_done(config, folder)
    assert not is_run_done(config.replace(steps=3), folder)
    assert not is_run_done(config.replace(seed=1), folder)
    assert is_run_done(config.replace(net="other", recipe="custom"), folder)
    (folder / "run.json").write_text("{")
    assert not is_run_done(config, folder)


def test_where_the_data_lie_is_no_setting() -> None:
    one, other = (tiny("none", data=f"images:/{folder}/cifar.tar.xz") for folder in ("here", "there"))
    assert identity(one) == identity(other)
    assert run_folder(Path(), one) == run_folder(Path(), other)
    assert "mlp-cifar-none" in run_folder(Path(), one).name
    assert run_folder(Path(), one) != run_folder(Path(), one.replace(learning_rate=0.3))


def test_two_nets_of_one_name_are_refused(tmp_path: Path) -> None:
    claim = replace(CLAIM, nets=lambda budget: (tiny("none"), tiny("none", steps=3)))
    with pytest.raises(UsageError, match="two nets of a claim are called 'standard'"):
        run_claims([claim], budget=TWO_SEEDS, to=tmp_path, workers=1)


def test_a_run_that_fails_is_noted_and_the_claim_still_judged(tmp_path: Path) -> None:
    claim = replace(CLAIM, nets=lambda budget: (tiny("none"), tiny("batch", batch_size=10**6)))
    (entry,) = run_claims([claim], budget=TWO_SEEDS, to=tmp_path, workers=1)
    assert entry.outcome == "inconclusive"
    assert "no net with this measure is named 'BatchNorm'" in entry.reason
    assert any("batch_size is 1000000" in note for note in entry.notes)


def test_a_claim_is_entered_before_the_runs_of_later_ones(tmp_path: Path) -> None:
    entered: list[tuple[str, int]] = []

    def note(entry: Entry) -> None:
        assert entry_path(tmp_path, entry.budget, entry.id).is_file()
        entered.append((entry.id, len(times_of(tmp_path))))

    later = replace(CLAIM, id="C11", nets=lambda budget: (*two_nets(budget), tiny("layer", net="LayerNorm")))
    entries = run_claims([later, CLAIM], budget=TWO_SEEDS, to=tmp_path, workers=1, judged=note)
    assert entered == [("C10", 4), ("C11", 6)]
    assert [entry.id for entry in entries] == ["C11", "C10"]
    entered.clear()
    run_claims([CLAIM], budget=TWO_SEEDS, to=tmp_path, workers=1, judged=note)
    assert entered == [("C10", 6)]


def test_an_evidence_function_that_fails_stops_no_other_claim(tmp_path: Path) -> None:
    def broken(found: Evidence) -> tuple[Effect, ...]:
        raise ZeroDivisionError("a mistake in the evidence")

    later = replace(CLAIM, id="C11", nets=lambda budget: (*two_nets(budget), tiny("layer", net="LayerNorm")))
    with pytest.raises(ZeroDivisionError, match="a mistake") as caught:
        run_claims([replace(CLAIM, evidence=broken), later], budget=TWO_SEEDS, to=tmp_path, workers=1)
    assert caught.value.__notes__ == ["while judging C10"]
    assert [entry.id for entry in read_ledger(tmp_path)] == ["C11"]


def test_an_entry_tells_how_long_all_its_runs_took_whoever_made_them(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "runs", tmp_path / "runs")
    for path in (tmp_path / "runs").glob("*/run.json"):
        info = json.loads(path.read_text())
        path.write_text(
            json.dumps(info | {"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:01:30+00:00"})
        )
    (entry,) = run_claims([CLAIM], budget=TWO_SEEDS, to=tmp_path, workers=1)
    assert entry.seconds == 4 * 90


def test_studies_are_run_stored_and_reused(tmp_path: Path) -> None:
    three = replace(TWO_SEEDS, num_seeds=3)
    (entry,) = run_claims([study_claim("drawn", mean=2.0)], budget=three, to=tmp_path, workers=1)
    assert entry.outcome == "supported"
    assert entry.effects[0]["center"] == pytest.approx(3.0)
    tables = {path: path.stat().st_mtime_ns for path in tmp_path.glob("studies/*/table.parquet")}
    assert len(tables) == 3
    for path in tmp_path.glob("studies/*/study.json"):
        info = json.loads(path.read_text())
        path.write_text(
            json.dumps(info | {"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:01:00+00:00"})
        )
    (entry,) = run_claims([study_claim("drawn", mean=2.0)], budget=three, to=tmp_path, workers=1)
    assert entry.seconds == 3 * 60
    assert {path: path.stat().st_mtime_ns for path in tables} == tables
    run_claims([study_claim("drawn", mean=5.0)], budget=three, to=tmp_path, workers=1)
    assert len(list(tmp_path.glob("studies/*/table.parquet"))) == 6


def test_a_study_that_fails_leaves_fewer_seeds(tmp_path: Path) -> None:
    (entry,) = run_claims([study_claim("failing")], budget=TWO_SEEDS, to=tmp_path, workers=1)
    assert entry.effects[0]["n"] == 1
    assert any("expected luck, got seed 1" in note for note in entry.notes)


def test_a_diverged_net_is_entered_as_infinite(tmp_path: Path) -> None:
    claim = replace(CLAIM, nets=lambda budget: (tiny("none", learning_rate=1e30, steps=4), tiny("batch", steps=4)))
    (entry,) = run_claims([claim], budget=TWO_SEEDS, to=tmp_path, workers=1)
    (effect,) = entry.effects
    assert [number for _, number in effect["values"]] == [0.0, 0.0]  # finite / inf
    assert read_ledger(tmp_path)[0].effects == entry.effects


def test_infinities_survive_the_ledger(tmp_path: Path) -> None:
    def evidence(found: Evidence) -> tuple[Effect, ...]:
        numbers = pd.Series({("a", 0): math.inf, ("a", 1): math.nan})
        return (value(numbers, "a", measure="loss"),)

    (entry,) = run_claims([replace(CLAIM, evidence=evidence)], budget=TWO_SEEDS, to=tmp_path, workers=1)
    ((_, first), (_, second)) = read_ledger(tmp_path)[0].effects[0]["values"]
    assert first == math.inf
    assert math.isnan(second)
    json.loads(entry_path(tmp_path, entry.budget, entry.id).read_text(), parse_constant=pytest.fail)


def test_missing_tables_leave_a_claim_open_and_say_so() -> None:
    effects, verdict = weigh(CLAIM, Evidence.of_frames())
    assert effects == ()
    assert verdict.outcome == "inconclusive"
    assert "no run holds rows of the table steps" in verdict.reason
    with pytest.raises(MissingEvidenceError, match="with site input"):
        Evidence.of_frames().table("activations", where={"site": "input"})


def test_what_one_net_did_not_log_can_be_read_of_the_others(tmp_path: Path) -> None:
    configs = {"evaluated": tiny("none", evaluate_every=1), "not": tiny("none")}
    for net, config in configs.items():
        make_run(config, tmp_path / net)
    found = Evidence(reader_of({net: [ics.open_run(tmp_path / net)] for net in configs}))
    accuracies = found.table("steps", columns=("step", "test_accuracy"))
    assert set(accuracies.columns) == {"run", "net", "seed", "step", "test_accuracy"}
    assert accuracies.groupby("net")["test_accuracy"].count().to_dict() == {"evaluated": configs["not"].steps, "not": 0}
    assert list(final_loss(found, column="test_accuracy").index) == [("evaluated", 0)]
    with pytest.raises(MissingEvidenceError, match="no run logged test_accuracies"):
        final_loss(found, column="test_accuracies")


def test_the_overview_keeps_rows_that_were_not_run(root: Path) -> None:
    entries = latest(read_ledger(root))
    frame = overview(entries).set_index("id")
    assert list(frame.index) == list(STATEMENTS)
    assert frame.loc["C10", "verdict"] == entries["C10"].outcome
    assert frame.loc["C07", "verdict"] == "not run yet"


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    path = entry_path(tmp_path, "quick", "C10")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(StoreError, match=r"C10\.json"):
        read_ledger(tmp_path)
