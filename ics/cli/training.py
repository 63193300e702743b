"""Commands that train: `demo` and `train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ics.cli.choices import parse_columns, parse_every
from ics.cli.console import Report, need, progress_bar
from ics.cli.settings import parse_grid, parse_seeds, parse_settings
from ics.cli.sweeping import fetch, how_to_read, how_to_read_folder, print_results, raise_failures, train_jobs

if TYPE_CHECKING:
    from ics.experiments import RunConfig
    from ics.experiments.sweep import Job

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
    norm: Annotated[
        str,
        typer.Option(help="Normalisation: none, batch, layer, l2, ... (docs/normalisations.md)."),
    ] = "none",
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
    seeds: Annotated[str, typer.Option(help="A run for each seed: their number, or 0,1,4, or 0..4.")] = "1",
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
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting of a run: momentum=0.9, hidden=64x64, ...")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="A run for each value of a setting, as lr=0.1,0.5; several make a grid."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs at a time (default: as many as cores and GPUs allow).")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="Run on Ray: local starts it here, an address joins a cluster (default: processes here)."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run; with --seeds, its seed is appended (default: runs/RECIPE-NORM); "
            "with --sweep, the folder of the runs (default: runs/RECIPE-sweep)."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace runs that are already there.")] = False,
) -> None:
    """Train a recipe with its instruments attached, and write the runs.

    Several runs (--seeds, --sweep) go beside each other; the same command again reuses what is finished and trains the
    rest.
    """
    from ics.experiments.sweep import jobs_of

    numbers = parse_seeds(seeds, first=seed)
    grid = parse_grid(sweep or [])
    changes: dict[str, Any] = {
        "norm": norm,
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
    given = {name: value for name, value in changes.items() if value is not None} | parse_settings(set_ or [])
    configs = [_config(recipe, given, point, every or []).replace(seed=number) for point in grid for number in numbers]
    if download:
        with progress_bar() as report:
            fetch(configs, report)
    if sweep:
        jobs = jobs_of(configs, to or Path("runs") / f"{recipe}-sweep", overwrite=overwrite)
    else:
        jobs = _listed(configs, to, Path("runs") / f"{recipe}-{given['norm']}", overwrite=overwrite)
    results = train_jobs(jobs, workers=workers, cluster=cluster, overwrite=overwrite)
    if len(jobs) > 1:
        print_results(configs, results)
    raise_failures(results)
    paths = [job.to for job in jobs]
    typer.echo(how_to_read_folder(paths[0].parent) if sweep else how_to_read(paths))


def _config(recipe: str, given: Mapping[str, Any], point: Mapping[str, tuple[str, Any]], every: list[str]) -> RunConfig:
    """Return the configuration at a point of the grid, with the swept settings in the label of its net."""
    from ics.experiments import recipe as recipe_named
    from ics.recording.presets import PRESETS

    settings = {**given, **{name: value for name, (_, value) in point.items()}}
    config = recipe_named(recipe, **settings)
    if settings.get("preset") is not None:
        schedules = PRESETS[settings["preset"]].schedules
        config = config.replace(instruments={name: str(when) for name, when in schedules.items()})
    # The recipe's own label contains the normalisation, so sweeping `norm` needs no addition to it.
    untold = {"net"} if "net" in settings else {"net", "norm"}
    label = " ".join([config.net, *(text for name, (text, _) in point.items() if name not in untold)])
    return config.replace(net=label, instruments=parse_every(every, config.instruments))


def _listed(configs: Sequence[RunConfig], to: Path | None, base: Path, *, overwrite: bool) -> list[Job]:
    """Return jobs in folders named by the user or after the recipe, with the seed appended."""
    from ics.experiments.sweep import job_of

    if to is not None and len(configs) == 1:
        folders = [to]
    else:
        folders = [Path(f"{to or base}-{config.seed}") for config in configs]
    # Several runs are resumed instead: what is finished there is reused.
    if len(configs) == 1:
        need(
            overwrite or not folders[0].exists(),
            f"{folders[0]} exists already; type --overwrite to replace it, or another --to",
        )
    pairs = zip(configs, folders, strict=True)
    # Absolute, as workers may run in another folder.
    return [job_of(config, folder.absolute(), overwrite=overwrite) for config, folder in pairs]


def _named(report: Report, name: str) -> Report:
    """Return `report` for one of several runs: the name of the run replaces `training`."""
    return lambda what, done, total: report(name if what == "training" else what, done, total)
