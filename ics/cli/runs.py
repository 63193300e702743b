"""Commands that read runs: `show`, `report`, `compare`, and `schema`. None of them imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ics.cli.choices import parse_columns, parse_where
from ics.cli.console import need, print_frame, progress_bar

if TYPE_CHECKING:
    from ics.store import Run


def show(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    table: Annotated[str | None, typer.Option(help="Print rows of this table.")] = None,
    columns: Annotated[str | None, typer.Option(help="Only these columns, as step,layer,shift_cosine.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Only rows for which this holds, as 'step>=100' or 'layer in a,b'.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Print at most so many rows.")] = 10,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="Leave out parts that cannot be read.")] = False,
) -> None:
    """Show what a run holds: its state, layers, tables and notes; or rows of a table."""
    import ics
    from ics.schema import table_named

    opened = ics.open_run(run)
    if table is None:
        need(columns is None and not where, "--columns and --where choose from a table; type --table too")
        _print_overview(opened, skip_damaged=skip_damaged)
        return
    conditions = parse_where(table_named(table, opened.schema), where or [])
    frame = opened.table(table, columns=parse_columns(columns), where=conditions, skip_damaged=skip_damaged)
    if columns is None:
        frame = frame.dropna(axis="columns", how="all")
    if frame.empty:
        typer.echo(f"{opened.name} has no rows of {table}{' for which ' + ' and '.join(where) if where else ''}")
    else:
        print_frame(frame, max_rows=rows)


def report(
    runs: Annotated[list[str], typer.Argument(help="Folders of runs, or quoted patterns such as 'runs/vgg-*'.")],
    to: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """Write one self-contained HTML page with the figures of one or more runs."""
    import ics

    opened = ics.open_runs(runs)
    to.parent.mkdir(parents=True, exist_ok=True)  # a place that cannot be written to shows before the drawing
    with progress_bar() as progress:
        progress("drawing", 0, 1)
        page = ics.plots.write_report(opened, to)
        progress("drawing", 1, 1)
    typer.echo(f"Report: {page}")


def compare(
    run_a: Annotated[str, typer.Argument(help="A run, or a quoted pattern for the seeds of one net.")],
    run_b: Annotated[str, typer.Argument(help="The run or runs to compare it with.")],
) -> None:
    """Compare two nets, measure by measure: both values, the ratio b / a and its 95 % interval over seeds."""
    import ics

    a, b = ics.open_runs(run_a), ics.open_runs(run_b)
    frame = ics.analysis.compare(a, b)
    print_frame(frame.drop(columns=["meaning", "unit", "null_reason"]))
    for name, reason in frame.loc[frame["null_reason"].notna(), ["measure", "null_reason"]].itertuples(index=False):
        typer.echo(f"{name}: {reason}")


def schema(
    table: Annotated[str | None, typer.Argument(help="Only this table.")] = None,
    run: Annotated[Path | None, typer.Option(help="A run: with the tables of your own instruments in it.")] = None,
) -> None:
    """Print every table that a run may hold: its keys, columns, units and meanings."""
    import textwrap

    import ics
    from ics.schema import SCHEMA_VERSION, TABLES, table_named

    tables = TABLES if run is None else ics.open_run(run).schema
    chosen = [table_named(table, tables)] if table else list(tables.values())
    if not table:
        typer.echo(f"schema version {SCHEMA_VERSION}\n")
    for one in chosen:
        typer.echo(f"{typer.style(one.name, bold=True)}: one row per {one.row}")
        for column in one.columns:
            key = " (key)" if column in one.keys else ""
            source = f" [{column.source}]" if column.source else ""
            meaning = textwrap.fill(
                f"{column.meaning}{source}", width=100, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
            typer.echo(f"  {column.name}{key}: {column.dtype}, {column.unit}\n{meaning}")
        typer.echo("")


def _print_overview(run: Run, *, skip_damaged: bool) -> None:
    info = run.info
    typer.echo(f"{typer.style(str(run.path), bold=True)}: {run.state}")
    for name in ("started", "ended", "device", "seed", "git_commit", "objective"):
        if info.get(name) is not None:
            typer.echo(f"  {name}: {info[name]}")
    if info.get("versions"):
        typer.echo("  versions: " + ", ".join(f"{name} {version}" for name, version in info["versions"].items()))
    if info.get("instruments"):
        typer.echo("  instruments: " + ", ".join(f"{name} {when}" for name, when in info["instruments"].items()))
    typer.echo("\nTables")
    for name in run.tables:
        frame = run.table(name, columns=["step"], skip_damaged=skip_damaged)
        typer.echo(f"  {name}: {len(frame)} rows, steps {frame['step'].min()} to {frame['step'].max()}")
    if len(run.layers):
        typer.echo("\nLayers, in the order in which they run")
        print_frame(run.layers[["index", "name", "kind", "shape", "num_parameters"]])
    for note in info.get("notes") or []:
        typer.echo(f"\nNote: {note}")
