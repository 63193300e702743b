"""Training with a recorder attached, written as any user would: `fit` is the worked example of how to use `ics`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ics
from ics.experiments.data.examples import Progress
from ics.experiments.training.config import RunConfig
from ics.experiments.training.experiment import Experiment, prepare
from ics.experiments.training.losses import total
from ics.experiments.training.machine import cpu_threads


def train(
    config: RunConfig,
    *,
    to: str | Path,
    overwrite: bool = False,
    download: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train what `config` describes, with its instruments attached, and return the folder of the run.

    Args:
        config: the whole configuration; stored in run.json.
        to: folder of the run.
        overwrite: replace a run that is already there.
        download: fetch a torchvision data set that is not there.
        progress: called as `progress("decoding images" | "training", done, total)`.

    Raises:
        UsageError: the data or the model cannot be had, do not fit each other, or the run exists.

    Example:
        >>> from ics.experiments import recipe, train
        >>> path = train(recipe("digits-mlp", norm="batch", steps=100), to="runs/digits-bn-0")  # doctest: +SKIP
        >>> ics.open_run(path).table("steps", columns=["step", "loss"])  # doctest: +SKIP
    """
    experiment = prepare(config, download=download, progress=progress)
    recorder = ics.Recorder(
        experiment.model,
        experiment.loss_fn,
        to=to,
        optimizer=experiment.optimizer,
        instruments=config.schedules(),
        options=instrument_options(config),
        budget=config.budget,
        layers=config.layers,
        config=config.as_dict(),
        seed=config.seed,
        overwrite=overwrite,
    )
    with recorder, cpu_threads(config.num_threads):
        fit(experiment, recorder, progress=progress)
    return Path(to)


def instrument_options(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Return the options of the instruments: the configuration's own, its step sizes, then a preset's."""
    line = {"gradient_line": {"etas": config.etas()}} if config.learning_rate else {}
    preset = {} if config.preset is None else ics.PRESETS[config.preset].options
    options: dict[str, dict[str, Any]] = {}
    for source in (preset, line, config.options):  # the later ones win, option by option
        for instrument, chosen in source.items():
            options[instrument] = options.get(instrument, {}) | dict(chosen)
    return options


def fit(experiment: Experiment, recorder: ics.Recorder, *, progress: Progress | None = None) -> None:
    """Train for the configured number of steps.

    The loss that is trained and measured is the data loss plus the penalty of the configuration, if it has one; the two
    are logged apart. Weight decay is the optimizer's business.
    """
    optimizer = experiment.optimizer
    for number, batch in enumerate(experiment.batches()):
        # Before the block: inside it, the passes over the test set would be measured along with training's.
        results = experiment.evaluate(number)
        with recorder.step(batch) as step:
            optimizer.zero_grad()
            terms = experiment.loss_terms(batch)  # {"loss": loss_fn(model, batch)}, and a penalty by its name
            total(terms).backward()
            optimizer.step()
            changes = experiment.after_step(batch)  # W(t+1) is what is there at the end of the block
            step.log(**terms, **changes, **results)
        if progress is not None:
            progress("training", number + 1, experiment.config.steps)
