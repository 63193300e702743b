"""Every claim that can be run: its nets and studies can be made, and without evidence it decides nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ics.claims import BUDGETS, CLAIMS, Evidence, base, budget_named, claims_named, weigh
from ics.claims.method.runs import check_names
from ics.claims.method.study import find_function
from ics.errors import SelectionError, UsageError
from ics.ledger import BUDGET_NAMES, STATEMENTS

IMAGES = {name: replace(budget, images=Path("cifar10.tar.xz")) for name, budget in BUDGETS.items()}


def test_every_statement_has_a_claim_and_a_source() -> None:
    assert list(CLAIMS) == list(STATEMENTS)
    assert tuple(BUDGETS) == BUDGET_NAMES
    assert list(STATEMENTS) == [f"C{number:02}" for number in range(1, len(STATEMENTS) + 1)]
    assert all(one.sentence.endswith(".") and one.source and one.title for one in STATEMENTS.values())


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize(
    "budget", [*BUDGETS.values(), IMAGES["cpu"]], ids=lambda one: f"{one.name}{'-images' * bool(one.images)}"
)
def test_a_claim_knows_what_to_run(name: str, budget) -> None:
    claim = CLAIMS[name]
    assert claim.id == name
    configs, studies = claim.nets(budget), claim.studies(budget)
    assert configs or studies
    check_names(configs)
    assert len({study.name for study in studies}) == len(studies)
    assert all(callable(find_function(study.function)) for study in studies)
    assert all(config.seed == 0 for config in configs)


@pytest.mark.parametrize("name", CLAIMS)
def test_nothing_recorded_decides_nothing(name: str) -> None:
    claim = CLAIMS[name]
    configs = {config.net: config for config in claim.nets(BUDGETS["quick"])}
    effects, verdict = weigh(claim, Evidence.of_frames(configs=configs))
    assert (effects, verdict.outcome) == ((), "inconclusive")
    assert "no " in verdict.reason


@pytest.mark.parametrize("name", CLAIMS)
def test_every_border_is_explained(name: str) -> None:
    assert all(criterion.why for criterion in CLAIMS[name].rule)


def test_claims_by_name() -> None:
    assert [claim.id for claim in claims_named(["all"])] == sorted(CLAIMS)
    with pytest.raises(SelectionError, match="no claim is named 'C77'"):
        claims_named(["C77"])
    with pytest.raises(UsageError, match="expected a claim, got none"):
        claims_named([])


def test_budgets_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ICS_CIFAR10", raising=False)
    assert budget_named("cpu", num_seeds=7).num_seeds == 7
    assert budget_named("cpu").bases == ("digits",)
    assert budget_named("cpu", images=tmp_path).bases == ("digits", "images")
    monkeypatch.setenv("ICS_CIFAR10", str(tmp_path))
    assert budget_named("cpu").images == tmp_path
    with pytest.raises(SelectionError, match="did you mean 'quick'"):
        budget_named("quik")
    with pytest.raises(UsageError, match="not there"):
        budget_named("cpu", images=tmp_path / "none")
    with pytest.raises(UsageError, match="at least 1, got 0"):
        budget_named("cpu", num_seeds=0)


def test_the_nets_that_claims_share() -> None:
    assert base(BUDGETS["quick"]).steps == BUDGETS["quick"].steps
    assert base(BUDGETS["quick"], "chain").hidden == (1,) * 8
    assert base(IMAGES["paper"], "images").model == "vgg16"
    assert base(BUDGETS["paper"], "linear").steps == 10_000
    with pytest.raises(SelectionError, match="did you mean 'sigmoid'"):
        base(BUDGETS["quick"], "sigmod")
    with pytest.raises(UsageError, match="--images"):
        base(BUDGETS["cpu"], "images")
