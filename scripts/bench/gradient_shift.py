"""What G' of all layers costs, in plain training steps: prefix reuse beside slower ways to the same numbers.

    python scripts/bench/gradient_shift.py                # all nets, CSV and plot into docs/bench/
    python scripts/bench/gradient_shift.py resnet18 --repeats 5 --batch 128

Four ways, one after the other in one process in every repeat, so that a machine's slow minutes hit all of them:

- plain: a training step (forward, backward, SGD with momentum), the unit;
- kept_prefix: prefix reuse, which is what `ics.gradient_shift` does (the column keeps its first name);
- full_passes: one whole forward pass per layer, and its backward pass down to that layer;
- k_pass: one whole forward and backward pass per layer, as the definition reads.

On the CPU the process's CPU time on one thread is taken, which other programs on the machine disturb least; with
`--threads 2` wall time, for a quiet machine; on a GPU wall time after synchronising. Ratios are taken within a repeat.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from ics.landscape import Objective, make_transition
from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.plan import HybridPlan, plan_hybrids
from ics.landscape.hybrids.replay.prefix_reuse import prefix_reuse
from ics.probes import find_layers

DOCS = Path(__file__).parents[2] / "docs" / "bench"


def cifar_resnet18() -> nn.Module:
    """ResNet-18 with the stem for 32 x 32 images."""
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def cifar_vgg16(norm: bool) -> nn.Module:
    """VGG-16's features for 32 x 32 images, with one linear layer."""
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], batch_norm=norm)
    return nn.Sequential(features, nn.Flatten(), nn.Linear(512, 10))


def linear_net() -> nn.Module:
    """The deep linear net: 25 layers of 10 x 10."""
    return nn.Sequential(*(nn.Linear(10, 10, bias=False) for _ in range(25)))


def mlp16() -> nn.Module:
    """16 layers of 100 with batch norm."""
    layers = [(nn.Linear(100, 100), nn.BatchNorm1d(100), nn.ReLU(inplace=True)) for _ in range(15)]
    return nn.Sequential(*(module for layer in layers for module in layer), nn.Linear(100, 10))


IMAGES = ((128, 3, 32, 32), 10)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "vgg16_bn": (lambda: cifar_vgg16(True), *IMAGES),
    "vgg16": (lambda: cifar_vgg16(False), *IMAGES),
    "resnet18": (cifar_resnet18, *IMAGES),
    "deep_linear": (linear_net, (1000, 10), 10),
    "mlp16": (mlp16, (128, 100), 10),
}


def loss_fn(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy."""
    return F.cross_entropy(model(batch[0]), batch[1])


def k_pass(plan: HybridPlan) -> Iterator[object]:
    """One whole forward and backward pass per layer."""
    for hybrid in plan.hybrids:
        if hybrid.moved:
            yield plan.transition.objective(hybrid.parameters)


def measure(
    name: str, *, repeats: int, device: str, batch_size: int | None, groupings: Sequence[str]
) -> Iterable[dict[str, object]]:
    """Yield a row per repeat and grouping."""
    make, shape, classes = NETS[name]
    shape = (batch_size or shape[0], *shape[1:])
    torch.manual_seed(0)
    model = make().to(device)
    batch = (torch.randn(shape, device=device), torch.randint(classes, shape[:1], device=device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def plain() -> None:
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()

    objective = Objective(model, loss_fn, batch)
    before = {key: value.clone() for key, value in objective.parameters.items()}
    plain()
    after = {key: value.clone() for key, value in objective.parameters.items()}
    transition = make_transition(objective, before=before, after=after)
    for grouping in groupings:
        layers = find_layers(model, lambda: objective(before), grouping=grouping)
        plan = plan_hybrids(transition, layers=layers, selected={layer.name for layer in layers})
        ways = {
            "plain": plain,
            "kept_prefix": partial(exhaust, prefix_reuse, plan),
            "full_passes": partial(exhaust, full_passes, plan),
            "k_pass": partial(exhaust, k_pass, plan),
        }
        for repeat in range(repeats):
            plain()  # warms up, and is not counted
            seconds = {way: timed(run, device) for way, run in ways.items()}
            restore(model, after)
            row = {"net": name, "grouping": grouping, "layers": len(layers), "batch_size": shape[0], "repeat": repeat}
            yield row | seconds


def exhaust(make: Callable[..., Iterable[object]], *arguments: object, **options: object) -> None:
    """Run an iterator to its end, keeping nothing."""
    for _ in make(*arguments, **options):
        pass


def timed(run: Callable[[], None], device: str) -> float:
    """Seconds of one call: CPU time of a process of one thread, else wall time with the device's work included."""
    on_gpu = device.startswith("cuda")
    clock = time.process_time if torch.get_num_threads() == 1 and not on_gpu else time.perf_counter
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    wait()
    start = clock()
    run()
    wait()
    return clock() - start


def restore(model: nn.Module, values: dict[str, torch.Tensor]) -> None:
    """Put parameters back, so that every repeat measures the same step."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(values[key])


def summary(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return median ratios to the plain step, with their range, per net and grouping."""
    found = []
    for net, grouping in dict.fromkeys((row["net"], row["grouping"]) for row in rows):
        chosen = [row for row in rows if (row["net"], row["grouping"]) == (net, grouping)]
        layers = int(str(chosen[0]["layers"]))
        line: dict[str, object] = {"net": net, "grouping": grouping, "layers": layers}
        line["batch_size"] = chosen[0]["batch_size"]
        for way in ("kept_prefix", "full_passes", "k_pass"):
            ratios = [float(str(row[way])) / float(str(row["plain"])) for row in chosen]
            line |= {f"{way}_steps": round(statistics.median(ratios), 2)}
            line |= {f"{way}_low": round(min(ratios), 2), f"{way}_high": round(max(ratios), 2)}
        line["per_layer"] = round(float(str(line["kept_prefix_steps"])) / layers, 3)
        speedups = [float(str(row["k_pass"])) / float(str(row["kept_prefix"])) for row in chosen]
        line["times_faster_than_k_pass"] = round(statistics.median(speedups), 2)
        found.append(line)
    return found


def draw(lines: list[dict[str, object]], path: Path) -> None:
    """Draw the cost in plain steps of both ways, per net."""
    from matplotlib.figure import Figure

    lines = [line for line in lines if line["grouping"] == "leaf"]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for offset, (way, color) in enumerate(
        (("k_pass", "#BBBBBB"), ("full_passes", "#777777"), ("kept_prefix", "#0072B2"))
    ):
        places = [place + 0.27 * (offset - 1) for place in range(len(lines))]
        values = [float(str(line[f"{way}_steps"])) for line in lines]
        low = [value - float(str(line[f"{way}_low"])) for value, line in zip(values, lines, strict=True)]
        high = [float(str(line[f"{way}_high"])) - value for value, line in zip(values, lines, strict=True)]
        bars = axes.barh(
            places, values, 0.26, xerr=[low, high], color=color, label=way.replace("_", " "), ecolor="#333"
        )
        axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=6, fontsize=8)
    axes.set_yticks(range(len(lines)), [f"{line['net']} ({line['layers']} modules)" for line in lines])
    axes.invert_yaxis()
    axes.set_xlabel("cost of G' for every module, in plain training steps (median; whiskers: range)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def write(rows: list[dict[str, object]], path: Path) -> None:
    """Write rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Measure, print, and write the CSVs and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", help=f"of {', '.join(NETS)}; default all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, help="samples per batch; default: the net's own")
    parser.add_argument("--groupings", nargs="+", default=["leaf"], choices=["leaf", "paper"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--to", type=Path, default=DOCS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # without it, untrained nets without batch norm time subnormal numbers
    rows: list[dict[str, object]] = []
    for name in options.nets or NETS:
        for row in measure(
            name, repeats=options.repeats, device=options.device, batch_size=options.batch, groupings=options.groupings
        ):
            rows.append(row)
            print(
                {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, flush=True
            )
    lines = summary(rows)
    for line in lines:
        print(line)
    options.to.mkdir(parents=True, exist_ok=True)
    write(rows, options.to / f"gradient_shift_{options.device}_raw.csv")
    write(lines, options.to / f"gradient_shift_{options.device}.csv")
    draw(lines, options.to / f"gradient_shift_{options.device}.png")


if __name__ == "__main__":
    main()
