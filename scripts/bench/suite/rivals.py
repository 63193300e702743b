"""What users would pick instead of `ics`, each as its own documentation uses it, recording at every step.

A package is imported when its way starts: where it is missing or fails, its row holds the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scripts.bench.suite.nets import Training
from scripts.bench.suite.ways import Running, Start, Way

BINS = 64


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules without children, by name."""
    return {name: module for name, module in model.named_modules() if next(module.children(), None) is None}


@contextmanager
def watched(model: nn.Module, take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `take(name, output)` for each leaf module that runs."""

    def hook(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: take(name, output.detach())

    with ExitStack() as stack:
        for name, module in leaves(model).items():
            stack.callback(module.register_forward_hook(hook(name)).remove)
        yield


@contextmanager
def hooks(training: Training) -> Iterator[Running]:
    """Forward hooks as people write them: a few calls with `.item()`, a JSON line per step."""
    found: dict[str, Any] = {}

    def take(name: str, x: Tensor) -> None:
        found[name] = {
            "mean": x.mean().item(),
            "std": x.std().item(),
            "min": x.min().item(),
            "max": x.max().item(),
            "histogram": torch.histc(x, BINS).tolist(),
        }

    training.folder.mkdir(parents=True, exist_ok=True)
    with (training.folder / "hooks.jsonl").open("w") as file, watched(training.model, take):

        def step() -> None:
            training.step()
            file.write(json.dumps({"step": training.steps, "layers": found}) + "\n")
            found.clear()

        yield Running(step, file.flush)


@contextmanager
def torchinstruments(training: Training) -> Iterator[Running]:
    """README: `inject_observer(model, ...)`, `remove_observer(model)`; leaf modules, every forward pass."""
    from torchinstruments import inject_observer, leaf_modules, remove_observer
    from torchinstruments.sampling import AlwaysSampler

    inject_observer(
        training.model,
        sampler=AlwaysSampler(),
        selector=leaf_modules(),
        output_dir=training.folder,
        error_policy="raise",
    )
    try:
        yield Running(training.step)
    finally:
        remove_observer(training.model)


@contextmanager
def torchlens(training: Training, *, histogram: bool) -> Iterator[Running]:
    """Its collector: one discovery pass, then an explicit step transaction around every step."""
    from torchlens.observability import HistoryCollector, WatchSettings

    settings = WatchSettings(output_dir=str(training.folder), sketch_cadence=1 if histogram else None)
    with HistoryCollector(training.model, settings=settings) as collector:
        collector.discover(training.next_batch()[0])
        collector.attach(training.optimizer)

        def step() -> None:
            with collector.step(training.steps):
                training.step()

        yield Running(step)


@contextmanager
def histograms(training: Training, *, writer: Callable[[str], Any]) -> Iterator[Running]:
    """`add_histogram` on the output of every leaf module, from forward hooks."""
    events = writer(str(training.folder))
    try:
        with watched(training.model, lambda name, x: events.add_histogram(name, x, training.steps)):
            yield Running(training.step, events.flush)
    finally:
        events.close()


def tensorboard(folder: str) -> Any:
    """Return the writer that comes with torch."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder)


def tensorboardx(folder: str) -> Any:
    """Return the writer of tensorboardX."""
    from tensorboardX import SummaryWriter

    return SummaryWriter(folder)


@contextmanager
def wandb_watch(training: Training) -> Iterator[Running]:
    """`run.watch(model, log="all", log_freq=1)` offline, and one `run.log` per step, which commits it."""
    import wandb

    training.folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(mode="offline", dir=str(training.folder), settings=wandb.Settings(console="off", silent=True))
    try:
        run.watch(training.model, log="all", log_freq=1)

        def step() -> None:
            loss = training.update(training.next_batch())
            run.log({"loss": loss.item()})

        yield Running(step)
    finally:
        run.finish()


@contextmanager
def monitorch(training: Training) -> Iterator[Running]:
    """An inspector with both lenses for outputs, ticked at every step so that each has its record."""
    from monitorch.inspector import PyTorchInspector
    from monitorch.lens import OutputActivation, OutputNorm
    from monitorch.visualizer import TensorBoardVisualizer

    visualizer = TensorBoardVisualizer(log_dir=str(training.folder))
    inspector = PyTorchInspector([OutputActivation(), OutputNorm()], module=training.model, visualizer=visualizer)

    def step() -> None:
        training.step()
        inspector.tick()

    try:
        yield Running(step, visualizer.writer.flush)
    finally:
        inspector.detach()
        visualizer.writer.close()


@contextmanager
def cockpit(training: Training) -> Iterator[Running]:
    """Its tutorial's loop with the configuration "economy", written at the end. BackPACK needs every operation to be
    a module, so activations work out of place here, and a residual sum it cannot follow.
    """
    from backpack import extend
    from cockpit import Cockpit
    from cockpit.utils.configuration import configuration

    for module in training.model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    model, loss_fn = extend(training.model), extend(nn.CrossEntropyLoss())
    individual = nn.CrossEntropyLoss(reduction="none")
    instrument = Cockpit(model.parameters(), quantities=configuration("economy"))

    def step() -> None:
        number, (x, y) = training.steps, training.next_batch()
        training.optimizer.zero_grad()
        outputs = model(x)
        loss = loss_fn(outputs, y)
        info = {
            "batch_size": len(y),
            "individual_losses": individual(outputs, y),
            "loss": loss,
            "optimizer": training.optimizer,
        }
        with instrument(number, info=info):
            loss.backward(create_graph=instrument.create_graph(number))
        training.optimizer.step()

    yield Running(step)
    instrument.write(str(training.folder / "cockpit"))


def _rival(label: str, records: str, start: Start, package: str, *, use: str, **more: Any) -> Way:
    return Way(label, records, start, **more, package=package, use=use)


RIVALS: Mapping[str, Way] = {
    "hooks": _rival(
        "hand-written hooks",
        f"mean, std, min, max and {BINS}-bin histogram of each leaf module's output",
        hooks,
        "",
        within="histograms",
        use="torch calls with `.item()` in a forward hook, a JSON line per step",
    ),
    "torchinstruments": _rival(
        "torchinstruments",
        "mean, std, min, max, quartiles, zero and non-finite fraction and 64-bin histogram of each leaf module's "
        "output and output gradient",
        torchinstruments,
        "torchinstruments",
        within="gradients",
        use="`inject_observer` with `AlwaysSampler` and `leaf_modules()`; its default samples once a minute",
    ),
    "torchlens": _rival(
        "torchlens",
        "counts, extrema, sum, mean and M2 of each leaf module's output",
        partial(torchlens, histogram=False),
        "torchlens",
        within="light",
        use="`observability.HistoryCollector`, a step transaction per step",
    ),
    "torchlens_histogram": _rival(
        "torchlens, with histogram",
        "the same and a signed log2 histogram, 4 buckets per octave",
        partial(torchlens, histogram=True),
        "torchlens",
        within="histograms",
        use="the same with `sketch_cadence=1`",
    ),
    "tensorboard": _rival(
        "TensorBoard histograms",
        "count, sum, sum of squares, extrema and histogram (10 % wide buckets) of each leaf module's output",
        partial(histograms, writer=tensorboard),
        "tensorboard",
        within="histograms",
        use="`torch.utils.tensorboard`: `add_histogram(name, output, step)` in a forward hook",
    ),
    "tensorboardx": _rival(
        "tensorboardX histograms",
        "the same",
        partial(histograms, writer=tensorboardx),
        "tensorboardX",
        within="histograms",
        use="`add_histogram(name, output, step)` in a forward hook",
    ),
    "wandb": _rival(
        "wandb.watch, offline",
        f"{BINS}-bin histograms of each parameter and its gradient; no activations",
        wandb_watch,
        "wandb",
        use='`run.watch(model, log="all", log_freq=1)` and `run.log` at every step; its default is every 1000th',
        pause=0.5,
    ),
    "monitorch": _rival(
        "monitorch",
        "share of non-zero values per unit and norm per example of each activation module's output, of which mean, "
        "std and range are kept; no other module",
        monitorch,
        "monitorch",
        use="`PyTorchInspector` with the lenses `OutputActivation` and `OutputNorm`, ticked at every step; its "
        "examples tick once an epoch",
    ),
    "cockpit": _rival(
        "cockpit, economy",
        "statistics of the gradients of single examples: tests of the gradient's noise, step size, distance, "
        "one histogram of all gradient entries",
        cockpit,
        "cockpit-for-pytorch",
        use='its tutorial\'s loop with `configuration("economy")` at every step',
        left_out={
            "vgg16_bn": "gradients of single examples take 0.26 GB per example (measured between batches of 2 and 8), "
            "33 GB at batch 128; at batch 8 a step takes 21 plain ones"
        },
    ),
}
