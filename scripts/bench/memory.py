"""Peak memory of a measured step beside a plain one, each in a process of its own.

    python scripts/bench/memory.py                      # CSV into docs/bench/memory.csv
    python scripts/bench/memory.py vgg16_bn --batch 128

`peak` is the largest resident set of the process, `step` what of it came with the training step or the measurement: the
peak less what the process held before it (interpreter, torch, model, data, optimizer). `seconds` is CPU time of one
thread, of a plain step or of the measurement after the model's first, which checks more.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "bench"
WAYS = ("plain", "gradient_shift", "chunk_8", "chunk_4", "chunk_1", "full_passes")
_MIB = 1024  # ru_maxrss is in KiB on Linux


def peak_of(net: str, way: str, batch_size: int) -> dict[str, float]:
    """Run one way in a process of its own and return its peak and what it held before, in MiB."""
    command = [sys.executable, __file__, "--one", net, way, str(batch_size)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def one(net: str, way: str, batch_size: int) -> None:
    """Take two plain steps, or one and a measurement of all layers, and print the peak."""
    import torch
    from gradient_shift import NETS, loss_fn

    from ics.landscape import Objective, make_transition
    from ics.landscape.hybrids.full_passes import full_passes
    from ics.landscape.hybrids.plan import plan_hybrids
    from ics.landscape.hybrids.replay.prefix_reuse import prefix_reuse
    from ics.probes import find_layers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    make, shape, classes = NETS[net]
    model, shape = make(), (batch_size, *shape[1:])
    batch = (torch.randn(shape), torch.randint(classes, shape[:1]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB
    before = {} if way == "plain" else {key: value.detach().clone() for key, value in model.named_parameters()}
    for _ in range(2):
        start = time.process_time()
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()
    if way != "plain":
        objective = Objective(model, loss_fn, batch)
        layers = find_layers(model, lambda: objective(before), grouping="leaf")
        transition = make_transition(objective, before=before, after=objective.parameters)
        chunk = int(way.removeprefix("chunk_")) if way.startswith("chunk_") else None
        passes = full_passes if way == "full_passes" else partial(prefix_reuse, chunk=chunk)
        for measured in (layers[-3:], layers):  # a model's first measurement checks more, and is kept short here
            start = time.process_time()
            for _ in passes(plan_hybrids(transition, layers=layers, selected={layer.name for layer in measured})):
                pass
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB
    print(json.dumps({"peak": round(peak), "held": round(held), "seconds": round(seconds, 2)}))


def main() -> None:
    """Measure every way and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=["vgg16_bn", "resnet18"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        net, way, batch_size = options.one
        one(net, way, int(batch_size))
        return
    rows = []
    for net in options.nets:
        plain: dict[str, float] = {}
        for way in WAYS:
            found = peak_of(net, way, options.batch)
            found["step"] = found["peak"] - found["held"]
            plain = plain or found
            ratios = {f"{name}_in_plain_steps": round(found[name] / plain[name], 2) for name in ("step", "seconds")}
            rows.append({"net": net, "batch_size": options.batch, "way": way, **found, **ratios})
            print(rows[-1], flush=True)
    DOCS.mkdir(parents=True, exist_ok=True)
    with (DOCS / "memory.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
