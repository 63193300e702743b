"""What G' of all layers costs in small nets, in plain training steps: several hybrids in one batched pass or not.

    python scripts/bench/small_nets.py                  # all nets, into docs/bench/small_nets.csv
    python scripts/bench/small_nets.py deep_linear_32 --repeats 5
    python scripts/bench/small_nets.py --device cuda --csv docs/bench/small_nets_cuda.csv

Every repeat runs a plain step (forward, backward, SGD with momentum) and each of the ways, one after the other in one
process. Times on a CPU are the thread's own, which other processes disturb little; on a GPU they are those of the
clock on the wall. `fastest` is what `ics.landscape.hybrids.autotune` settles on, with prefix reuse (the rows
named kept_prefix) as the usual way; what its first measurement costs stands in rows of their own.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ics.landscape import Objective, Transition, make_transition
from ics.landscape.hybrids.autotune import fastest
from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.plan import plan_hybrids
from ics.landscape.hybrids.replay.prefix_reuse import prefix_reuse
from ics.landscape.hybrids.stacked.batched import batched_passes
from ics.landscape.hybrids.stacked.staircase import staircase
from ics.probes import find_layers

CSV = Path(__file__).parents[2] / "docs" / "bench" / "small_nets.csv"


def deep_linear(*, norm: bool) -> nn.Module:
    """25 linear layers of 10 x 10, with batch norm after all but the last or without."""
    hidden = [(nn.Linear(10, 10, bias=False), *([nn.BatchNorm1d(10)] if norm else [])) for _ in range(24)]
    return nn.Sequential(*(module for layer in hidden for module in layer), nn.Linear(10, 10, bias=False))


def mlp16() -> nn.Module:
    """16 layers of width 100."""
    hidden = [(nn.Linear(100, 100), nn.ReLU()) for _ in range(15)]
    return nn.Sequential(*(module for layer in hidden for module in layer), nn.Linear(100, 10))


NETS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # model, batch size, width of the input
    "deep_linear": (partial(deep_linear, norm=False), 1000, 10),
    "deep_linear_bn": (partial(deep_linear, norm=True), 1000, 10),
    "mlp16": (mlp16, 128, 100),
    "deep_linear_32": (partial(deep_linear, norm=False), 32, 10),
    "deep_linear_bn_32": (partial(deep_linear, norm=True), 32, 10),
    "mlp16_8": (mlp16, 8, 100),
}


def squared_error(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Mean squared error."""
    return F.mse_loss(model(batch[0]), batch[1])


def measure(name: str, *, repeats: int, device: str) -> Iterator[dict[str, object]]:
    """Yield a row for each way to G' of all layers."""
    make, size, width = NETS[name]
    torch.manual_seed(0)
    model = make().to(device)
    batch = (torch.randn(size, width, device=device), torch.randn(size, 10, device=device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def plain() -> None:
        optimizer.zero_grad()
        squared_error(model, batch).backward()
        optimizer.step()

    transition = step_of(model, batch, plain)
    layers = find_layers(model, lambda: transition.objective(transition.before))
    plan = plan_hybrids(transition, layers=layers, selected=[layer.name for layer in layers])
    run = {
        "plain": plain,
        "first_fastest": partial(exhaust, fastest, plan, usual=prefix_reuse),
        "full_passes": partial(exhaust, full_passes, plan),
        "kept_prefix": partial(exhaust, prefix_reuse, plan),
        "batched_all": partial(exhaust, batched_passes, plan),
        "staircase": partial(exhaust, staircase, plan),
        "staircase_ff": partial(exhaust, staircase, plan, features_first=True),
        "fastest": partial(exhaust, fastest, plan, usual=prefix_reuse),
        "fastest_exact": partial(exhaust, fastest, plan, usual=prefix_reuse, exact=True),
    }
    seconds: dict[str, list[float]] = {way: [] for way in run}
    for _ in range(5):
        plain()
    choose = run.pop("first_fastest")
    choose()  # a single measurement chooses nothing
    seconds["first_fastest"].append(timed(choose, device))
    for repeat in range(repeats + 1):  # the first is a warm-up
        for way, call in run.items():
            taken = timed(call, device) if way != "plain" else statistics.median(timed(call, device) for _ in range(5))
            seconds[way] += [taken] if repeat else []
    yield from summary(name, layers=len(layers), size=size, seconds=seconds)


def step_of(model: nn.Module, batch: object, step: Callable[[], None]) -> Transition:
    """Return the transition that one step makes."""
    objective = Objective(model, squared_error, batch)
    before = {name: value.clone() for name, value in objective.parameters.items()}
    step()
    after = {name: value.clone() for name, value in objective.parameters.items()}
    return make_transition(objective, before=before, after=after)


def summary(name: str, *, layers: int, size: int, seconds: dict[str, list[float]]) -> Iterator[dict[str, object]]:
    """Yield median and range of each way's ratio to the plain step, taken within a repeat."""
    plain = seconds["plain"]
    for way, times in seconds.items():
        against = plain if len(times) == len(plain) else [statistics.median(plain)]
        ratios = [taken / step for taken, step in zip(times, against, strict=True)]
        row: dict[str, object] = {"net": name, "layers": layers, "batch_size": size, "way": way}
        row |= {"steps": statistics.median(ratios), "steps_low": min(ratios), "steps_high": max(ratios)}
        row |= {"repeats": len(times), "milliseconds": 1e3 * statistics.median(times)}
        yield {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}


def exhaust(make: Callable[..., Iterator[object]], *arguments: object, **options: object) -> None:
    """Run an iterator to its end, keeping nothing."""
    for _ in make(*arguments, **options):
        pass


def timed(run: Callable[[], None], device: str) -> float:
    """Seconds of one call: the thread's own on a CPU, the wall's and the device's work included elsewhere."""
    if device == "cpu":
        start = time.thread_time()
        run()
        return time.thread_time() - start
    torch.accelerator.synchronize()
    start = time.perf_counter()
    run()
    torch.accelerator.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=list(NETS), help=f"of {', '.join(NETS)}")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--csv", type=Path, default=CSV)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for name in options.nets:
        for row in measure(name, repeats=options.repeats, device=options.device):
            print(*row.values(), sep="\t", flush=True)
            rows.append({"device": options.device, "torch": torch.__version__, **row})
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    with options.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
