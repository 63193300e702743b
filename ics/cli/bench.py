"""The command `bench`: the cost of recording on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ics.cli.choices import parse_shape
from ics.cli.console import need, progress_bar

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

_DERIVED = "Every 10th and 100th step follow from every step's cost m and an idle one's i: i + (m - i) / n."
_TIMED = "Every interval was timed."
_BUSY = 0.5  # load per core above which other programs widen the intervals
_IMAGES = (".png", ".svg", ".pdf")


def bench(
    model: Annotated[
        str | None,
        typer.Argument(help="A model's name (mlp, vgg11, ...), or package.module:function; default: three usual ones."),
    ] = None,
    norm: Annotated[
        str, typer.Option(help="Normalisation of MODEL: none, batch, layer, ... (docs/normalisations.md).")
    ] = "none",
    input_shape: Annotated[
        str | None, typer.Option(help="Shape of one input of MODEL, as 3,32,32 (default: what the model is made for).")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Samples per step (default: 32; the MLP of the default set takes 128).")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch (default: what is set).")] = None,
    cpu_time: Annotated[
        bool,
        typer.Option("--cpu-time", help="Count CPU seconds of one thread, not the wall's: for busy machines."),
    ] = False,
    rounds: Annotated[int, typer.Option(help="How often each way is timed, at most.")] = 30,
    seconds: Annotated[float, typer.Option(help="Begin no further round of a model after so many seconds.")] = 20.0,
    measure_all: Annotated[
        bool, typer.Option("--measure-all", help="Time intervals 10 and 100 too, which takes long.")
    ] = False,
    no_memory: Annotated[bool, typer.Option("--no-memory", help="Leave peak memory out.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Draw the ratios into this image.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write all numbers to this file.")] = None,
) -> None:
    """Time a training step plain, with an idle recorder, and measured: light, standard, full, gradient shift.

    Presets are timed with their statistics of the pass; what evaluates the loss elsewhere costs whole steps, as the
    line of the gradient shift shows. Without MODEL it takes some minutes on cores that have nothing else to do.
    """
    import pandas as pd

    from ics.experiments.benchmarking.overhead import overhead
    from ics.experiments.benchmarking.timing import machine
    from ics.experiments.training.machine import cpu_threads, find_device

    need(rounds >= 2, f"--rounds is at least 2, as a ratio without a spread says little; got {rounds}")
    need(batch is None or batch >= 1, f"--batch is at least 1, got {batch}")
    need(threads is None or threads >= 1, f"--threads is at least 1, got {threads}")
    need(not cpu_time or threads in (None, 1), f"--cpu-time is of one thread, got --threads {threads}; leave one out")
    need(seconds > 0, f"--seconds is above 0, got {seconds:g}")
    for path in (output, csv):
        need(path is None or path.parent.is_dir(), f"there is no folder {path and path.parent}; make it first")
    need(output is None or output.suffix in _IMAGES, f"-o is a file {', '.join(_IMAGES)}, got {output}; type bench.png")
    settings = _settings(model, norm=norm, input_shape=input_shape, batch=batch, device=device)
    on = find_device(device)
    need(not cpu_time or on.type == "cpu", f"--cpu-time says nothing of {on}; type --device cpu, or leave it out")
    costs = []
    with cpu_threads(1 if cpu_time else threads), progress_bar() as report:
        beside = machine(on) | {"seconds of": "CPU" if cpu_time else "wall"}
        _note_load(beside)
        for setting in settings:
            more: dict[str, Any] = {"measure_all": measure_all, "memory": not no_memory, "progress": report}
            more |= {"clock": time.process_time} if cpu_time else {}
            costs += overhead(setting, rounds=rounds, seconds_limit=seconds, **more)
    frame = pd.DataFrame(costs)
    _print(frame, beside)
    if csv is not None:
        frame.to_csv(csv, index=False)
        typer.echo(f"Numbers: {csv}")
    if output is not None:
        from ics.cli.bench_plot import draw

        draw(frame, output)
        typer.echo(f"Figure: {output}")


def _settings(model: str | None, *, norm: str, input_shape: str | None, batch: int | None, device: str) -> list[Any]:
    from dataclasses import replace

    from ics.experiments.benchmarking.ways import DEFAULT_SETTINGS, Setting

    size: dict[str, Any] = {} if batch is None else {"batch_size": batch}
    if model is None:
        need(
            norm == "none" and input_shape is None,
            "--norm and --input-shape belong to a MODEL; type one, e.g. resnet18",
        )
        return [replace(setting, device=device, **size) for setting in DEFAULT_SETTINGS]
    shape = None if input_shape is None else parse_shape(input_shape)
    label = model if norm == "none" else f"{model}-{norm}"
    return [Setting(label=label, model=model, norm=norm, input_shape=shape, device=device, **size)]


def _note_load(beside: dict[str, Any]) -> None:
    load, cores = beside["load_average"], beside["cores"]
    if load is not None and cores and load > _BUSY * cores and beside["seconds of"] == "wall":
        typer.echo(
            f"ics: note: other programs keep this machine busy (load {load:g} on {cores} cores), which widens the "
            "intervals; wait for them, or type --cpu-time",
            err=True,
        )


def _print(frame: pd.DataFrame, beside: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console()
    for _, rows in frame.groupby("model", sort=False):
        console.print(_table(rows))
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in beside.items())
    derived = _DERIVED if frame["derived"].any() else _TIMED
    memory = "Memory: what two steps add to the process. " if frame["added_bytes"].notna().any() else ""
    typer.echo(
        "Ratios: seconds of a step over those of a plain one, taken in turns; median of the rounds (95 % interval; of "
        f"fewer than six rounds their range). Writing is included. {derived}\n{memory}Machine: {facts}."
    )


def _table(rows: pd.DataFrame) -> Table:
    from rich import box
    from rich.table import Table

    plain = rows.iloc[0]
    title = (
        f"{plain['model']}, batch {plain['batch_size']}: a plain step takes {1000 * plain['plain_seconds']:.1f} ms "
        f"({plain['rounds']} rounds)"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("way", no_wrap=True)
    for heading in ("every step", "10th", "100th", "kB/step", "memory, MiB"):
        table.add_column(heading, justify="right", no_wrap=heading != "memory, MiB")
    for way, lines in rows.groupby("way", sort=False):
        ratios = [_ratio(line) for _, line in lines.iterrows()]
        first = lines.iloc[0]
        table.add_row(str(way).replace("_", " "), *(*ratios, "", "")[:3], _disk(first), _memory(first))
    return table


def _ratio(line: pd.Series) -> str:
    digits = 3 if line["ratio"] < 2 else 2
    spread = (
        "" if line["way"] == "plain" or line["derived"] else f" ({line['low']:.{digits}f}-{line['high']:.{digits}f})"
    )
    return f"{line['ratio']:.{digits}f}{spread}"


def _disk(line: pd.Series) -> str:
    # NaN, which is unequal to itself, where no bytes were measured.
    return "" if line["bytes_per_step"] != line["bytes_per_step"] else f"{line['bytes_per_step'] / 1000:.2f}"


def _memory(line: pd.Series) -> str:
    added = line["added_bytes"]
    return "" if added is None or added != added else f"{added / 2**20:.0f} ({line['added_ratio']:.2f} x)"
