"""The commands `ics claims`: statements about BatchNorm, each with the verdict of a measurement."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ics.cli.console import need, print_frame, progress_bar

if TYPE_CHECKING:
    from ics.ledger import Entry

EXAMPLES: Mapping[str, str] = {
    "claims": "ics claims --to docs/claims",
    "run": "ics claims run C07 C08 --budget quick --seeds 5 --workers 2",
    "show": "ics claims show C07",
    "report": "ics claims report -o claims.html",
}
"""Every command of the group, and the group itself, with the example that ends its help."""

app = typer.Typer(invoke_without_command=True, epilog=f"Example: {EXAMPLES['claims']}")

ToOption = Annotated[Path, typer.Option(help="Folder of runs, studies and the ledger.")]
BudgetOption = Annotated[str | None, typer.Option(help="Only verdicts of this budget: quick, cpu or paper.")]

_DEFAULT = Path("claims")


@app.callback()
def claims(context: typer.Context, to: ToOption = _DEFAULT, budget: BudgetOption = None) -> None:
    """List the claims about BatchNorm with their last verdicts; run, show and report them."""
    if context.invoked_subcommand is not None:
        return
    from ics.ledger import latest, overview  # apart from `ics.claims`: a ledger is read where there is no torch

    frame = overview(latest(_entries(to, budget), budget=budget))
    shown = frame[["id", "verdict", "budget", "seeds", "needs", "title"]].astype(object)
    print_frame(shown.where(shown.notna(), ""))
    done = int(frame["budget"].notna().sum())
    typer.echo(f"\n{done} of {len(frame)} have a verdict. Run: {EXAMPLES['run']}\nRead: ics claims show C07")


@app.command(epilog=f"Example: {EXAMPLES['run']}")
def run(
    claims: Annotated[list[str], typer.Argument(help="Claims as C07, or all.")],
    budget: Annotated[
        str, typer.Option(help="quick (under a minute a claim), cpu (under 15 minutes) or paper (for a GPU).")
    ] = "quick",
    seeds: Annotated[int | None, typer.Option(help="Seeds per net (default: the budget's).")] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder or archive of CIFAR-10 images (default: the variable ICS_CIFAR10)."),
    ] = None,
    to: ToOption = _DEFAULT,
    workers: Annotated[int | None, typer.Option(help="Runs at a time (default: one per core).")] = None,
    cluster: Annotated[str | None, typer.Option(help="Ray: local, or the address of a cluster.")] = None,
) -> None:
    """Train what is missing, measure, decide, and enter the verdicts into the ledger; what is there is reused."""
    from ics.claims import budget_named, claims_named, run_claims

    chosen = claims_named(claims)
    size = budget_named(budget, num_seeds=seeds, images=images)
    if size.name == "cpu" and size.images is None:
        typer.echo("No images were given (--images PATH or ICS_CIFAR10), so digits stand for all data.", err=True)
    numbers = count(1)
    with progress_bar() as progress:
        entries = run_claims(
            chosen,
            budget=size,
            to=to,
            workers=workers,
            cluster=cluster,
            progress=progress,
            command=_command(claims, budget=budget, seeds=seeds, images=size.images),
            judged=lambda entry: progress("verdicts", next(numbers), len(chosen)),
        )
    for entry in entries:
        _print_verdict(entry)
    typer.echo(f"\nLedger: {to / 'ledger' / size.name}\nPage: ics claims report -o claims.html --to {to}")


@app.command(epilog=f"Example: {EXAMPLES['show']}")
def show(
    claim: Annotated[str, typer.Argument(help="A claim as C07.")],
    to: ToOption = _DEFAULT,
    budget: BudgetOption = None,
) -> None:
    """Show a claim: its sentence and source, the rule, the effects with their intervals, and how they were got."""
    from ics.errors import unknown_name
    from ics.ledger import STATEMENTS, latest

    name = claim.upper()
    if name not in STATEMENTS:
        raise unknown_name("claim", name, STATEMENTS)
    statement, entries = STATEMENTS[name], latest(_entries(to, budget), budget=budget)
    typer.echo(f"{typer.style(name, bold=True)} {statement.sentence}\n  source: {statement.source}")
    if name in entries:
        _print_rule({row["criterion"]: row["why"] for row in entries[name].effects if "criterion" in row})
        _print_entry(entries[name])
    else:
        from ics.claims import CLAIMS  # only here: a verdict in the ledger brings its rule, and this imports torch

        _print_rule({criterion.text: criterion.why for criterion in CLAIMS[name].rule})
        typer.echo(f"  not run yet; type ics claims run {name}")


@app.command(epilog=f"Example: {EXAMPLES['report']}")
def report(
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path("claims.html"),
    to: ToOption = _DEFAULT,
    budget: BudgetOption = None,
) -> None:
    """Write one self-contained page: every claim, what was measured, and the verdict; Markdown if it ends in .md."""
    from ics.ledger import details, effects_frame, latest, overview
    from ics.plots.ledger.markdown import write_ledger_markdown
    from ics.plots.ledger.page import write_ledger

    entries = latest(_entries(to, budget), budget=budget)
    need(entries, f"expected verdicts in {to / 'ledger'}, got none; type ics claims run all")
    write = write_ledger_markdown if output.suffix == ".md" else write_ledger
    page = write(overview(entries), details(entries), effects_frame(entries), output)
    typer.echo(f"Report: {page}")


def _entries(to: Path, budget: str | None) -> list[Entry]:
    from ics.errors import unknown_name
    from ics.ledger import BUDGET_NAMES, read_ledger

    if budget is not None and budget not in BUDGET_NAMES:
        raise unknown_name("budget", budget, BUDGET_NAMES)
    return read_ledger(to)


def _print_verdict(entry: Entry) -> None:
    needs = f", needs about {entry.seeds_needed} seeds" if entry.seeds_needed else ""
    # The reason of a clear verdict begins with it: "supported by ...".
    told = entry.reason if entry.reason.startswith(entry.outcome) else f"{entry.outcome}{needs}: {entry.reason}"
    typer.echo(f"{typer.style(entry.id, bold=True)} {told}")


def _print_rule(criteria: Mapping[str, str]) -> None:
    for text, why in criteria.items():
        typer.echo(f"  holds if {text}{f' ({why})' if why else ''}")


def _print_entry(entry: Entry) -> None:
    import pandas as pd

    typer.echo(f"\n{entry.outcome} under the budget {entry.budget}, {entry.date[:10]}, seeds {entry.seeds}")
    columns = ["measure", "setting", "center", "low", "high", "n", "criterion", "vote"]
    if entry.effects:
        shown = pd.DataFrame(entry.effects).reindex(columns=columns).astype(object)
        print_frame(shown.where(shown.notna(), ""))
    else:
        typer.echo(f"  {entry.reason}")
    for label, text in (("published", entry.published), ("remark", entry.remark), ("command", entry.command)):
        if text:
            typer.echo(f"{label}: {text}")
    for note in entry.notes:
        typer.echo(f"note: {note}")
    typer.echo("versions: " + ", ".join(f"{name} {version}" for name, version in entry.versions.items()))


def _command(claims: list[str], *, budget: str, seeds: int | None, images: Path | None) -> str:
    """Return the command that reproduces these numbers, without paths of this machine."""
    extra = [] if seeds is None else ["--seeds", str(seeds)]
    if images is not None and budget != "quick":
        extra += ["--images", images.name]
    return shlex.join(["ics", "claims", "run", *claims, "--budget", budget, *extra])
