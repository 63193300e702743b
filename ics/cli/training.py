"""Commands that train: `demo` and `train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from ics.cli.choices import parse_columns, parse_every
from ics.cli.console import Report, need, progress_bar

LOOP = """\
To measure a net of your own, put a recorder around the step of your loop:

    recorder = ics.Recorder(model, loss_fn, to="runs/mine-0", optimizer=optimizer)
    for batch in loader:
        with recorder.step(batch) as step:
            optimizer.zero_grad()
            loss = loss_fn(model, batch)        # def loss_fn(model, batch): ... returns the training loss
            loss.backward()
            optimizer.step()
            step.log(loss=loss)
    recorder.close()

then: ics report runs/mine-0"""


def demo(
    to: Annotated[Path, typer.Option(help="Folder for the runs and report.html.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(help="Seeds per net.")] = 2,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps per run (default: 400).")] = None,
) -> None:
    """Train a small net with and without BatchNorm on digits, measure both with every instrument, and report."""
    import ics
    from ics.experiments import demo_configs, train

    configs = demo_configs(num_seeds=seeds)
    paths = []
    with progress_bar() as report:
        for config in configs:
            config = config if steps is None else config.replace(steps=steps)
            name = f"{config.net.lower()}-{config.seed}"
            paths.append(train(config, to=to / name, overwrite=True, progress=_named(report, name)))
        report("report", 0, 1)
        runs = ics.open_runs(paths)
        page = ics.plots.write_report(runs, to / "report.html")
        report("report", 1, 1)
    for sentence in ics.analysis.headline(runs):
        typer.echo(f"  {sentence}")
    typer.echo(f"\nReport: {page}\n\n{LOOP}")


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe; `ics recipes` lists them.")],
    norm: Annotated[str, typer.Option(help="Normalisation: none or batch.")] = "none",
    data: Annotated[
        str | None,
        typer.Option(help="digits, gaussian, mnist, cifar10, ..., or images:PATH (a folder or tar archive)."),
    ] = None,
    data_root: Annotated[str | None, typer.Option(help="Folder of the torchvision data sets.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not there.")] = False,
    image_size: Annotated[int | None, typer.Option(help="Resize images of images:PATH to this many pixels.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only so many images per class and split.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Another model: its name, or package.module:function of your own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    seeds: Annotated[int, typer.Option(help="Number of runs, with consecutive seeds.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to measure: names or globs, as 'features.*,head'.")] = None,
    every: Annotated[
        list[str] | None,
        typer.Option(help="Measure every N steps: N, or INSTRUMENT=N (0: never), or INSTRUMENT=log_spaced(40)."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Instruments by cost: light, standard, full (default: the recipe's); --every changes them."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Share of training time that recording may take, as 0.02 (default: no limit).")
    ] = None,
    net: Annotated[str | None, typer.Option(help="Label of the net in figures (default: from --norm).")] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; with --seeds, its seed is appended (default: runs/RECIPE-NORM)."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace runs that are already there.")] = False,
) -> None:
    """Train a recipe with its instruments attached, and write the runs."""
    from ics.experiments import recipe as recipe_named
    from ics.experiments import train as train_config
    from ics.recording.presets import PRESETS

    need(seeds >= 1, f"--seeds is at least 1, got {seeds}")
    changes: dict[str, Any] = {
        "data": data,
        "data_root": data_root,
        "image_size": image_size,
        "limit": limit,
        "model": model,
        "steps": steps,
        "learning_rate": lr,
        "batch_size": batch_size,
        "device": device,
        "layers": parse_columns(layers),
        "preset": preset,
        "budget": budget,
        "net": net,
    }
    config = recipe_named(recipe, norm=norm, **{name: value for name, value in changes.items() if value is not None})
    if preset is not None:
        config = config.replace(instruments={name: str(when) for name, when in PRESETS[preset].schedules.items()})
    config = config.replace(instruments=parse_every(every or [], config.instruments))
    base = to or Path("runs") / f"{recipe}-{norm}"
    folders = {number: base if to and seeds == 1 else Path(f"{base}-{number}") for number in range(seed, seed + seeds)}
    for folder in folders.values():
        need(
            overwrite or not folder.exists(),
            f"{folder} exists already; type --overwrite to replace it, or another --to",
        )
    with progress_bar() as report:
        for number, folder in folders.items():
            train_config(
                config.replace(seed=number),
                to=folder,
                overwrite=overwrite,
                download=download,
                progress=_named(report, folder.name),
            )
    paths = shlex.join(map(str, folders.values()))
    typer.echo(f"Recorded {paths}\nLook: ics show {next(iter(folders.values()))}\nDraw: ics report {paths}")


def _named(report: Report, name: str) -> Report:
    """Return `report` for one of several runs: `training` becomes the name of the run."""
    return lambda what, done, total: report(name if what == "training" else what, done, total)
