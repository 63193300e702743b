"""All statistics of one tensor: separate operations, numba's kernels and a compiled graph beside a copy of the tensor.

    python scripts/bench/kernels.py                       # all tensors, into docs/bench/kernels.csv
    python scripts/bench/kernels.py "128 x 100" --rounds 50
    python scripts/bench/kernels.py --no-compile          # without torch.compile, which takes minutes

Every round times each way once, in turns, in one process (small tensors: several calls in a row). What the first call
took, which compiles a graph, is `first_call_s`; numba's kernels come from disk or are compiled before that.
Milliseconds are those of the clock on the wall: the median over the rounds and the 10th and 90th percentile. The rate
is the size of the tensor over the median: reading it once at that rate is all there is to gain. A way that does not
measure a tensor has no row.
"""

from __future__ import annotations

import argparse
import csv
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ics import stats
from ics.stats import compiled_graph

CSV = Path(__file__).parents[2] / "docs" / "bench" / "kernels.csv"
FIELDS = ("tensor", "dtype", "threads", "way", "histogram", "first_call_s", "ms", "ms_p10", "ms_p90", "gb_per_s")
TENSORS: dict[str, tuple[tuple[int, ...], torch.dtype, bool]] = {
    "64 x 64 x 32 x 32": ((64, 64, 32, 32), torch.float32, False),
    "128 x 64 x 32 x 32": ((128, 64, 32, 32), torch.float32, False),
    "128 x 512 x 4 x 4": ((128, 512, 4, 4), torch.float32, False),
    "128 x 100": ((128, 100), torch.float32, False),
    "64 x 64 x 32 x 32, channels last": ((64, 64, 32, 32), torch.float32, True),
    "64 x 64 x 32 x 32, bfloat16": ((64, 64, 32, 32), torch.bfloat16, False),
}


def ways(x: Tensor, *, compiled: Callable[..., object] | None) -> dict[tuple[str, bool], Callable[[], object]]:
    """Return what is timed: by name, and whether with the histogram."""
    target = torch.empty_like(x)
    found: dict[tuple[str, bool], Callable[[], object]] = {("copy", False): lambda: target.copy_(x)}
    for histogram in (False, True):
        found["eager", histogram] = lambda histogram=histogram: stats.reduce(x, channel_axis=1, histogram=histogram)
        found["numba", histogram] = found["eager", histogram]
        if compiled is not None:
            limit = 65_536 if histogram else 0
            found["torch.compile", histogram] = lambda limit=limit: compiled(x, 1, None, None, limit)
    return found


def measure(name: str, *, rounds: int, compiled: Callable[..., object] | None) -> Iterator[dict[str, object]]:
    """Yield a row for each way that measures the tensor at all."""
    shape, dtype, channels_last = TENSORS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    calls = max(1, min(50, 1_000_000 // x.numel()))
    every = ways(x, compiled=compiled)
    first = {key: timed(key[0], run, calls=1) for key, run in every.items()}
    every = {key: run for key, run in every.items() if run() is not None}
    times: dict[tuple[str, bool], list[float]] = {key: [] for key in every}
    for _ in range(rounds):
        for key, run in every.items():
            times[key].append(timed(key[0], run, calls=calls))
    for (way, histogram), seconds in times.items():
        low, median, high = 1e3 * np.quantile(seconds, (0.1, 0.5, 0.9))
        yield {
            "tensor": name,
            "dtype": str(dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "way": way,
            "histogram": histogram,
            "first_call_s": round(first[way, histogram], 3),
            "ms": round(median, 4),
            "ms_p10": round(low, 4),
            "ms_p90": round(high, 4),
            "gb_per_s": round(x.numel() * x.element_size() / median / 1e6, 2),
        }


def timed(way: str, run: Callable[[], object], *, calls: int) -> float:
    """Return the seconds that a call takes, over several calls in a row."""
    stats.use_backend("fused" if way == "numba" else "eager")
    stats.backend()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tensors", nargs="*", metavar="TENSOR", help=f"of: {'; '.join(TENSORS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--csv", type=Path, default=CSV)
    arguments = parser.parse_args()
    unknown = set(arguments.tensors) - set(TENSORS)
    if unknown:
        parser.error(f"no tensor is called {sorted(unknown)[0]!r}; there are: {'; '.join(TENSORS)}")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    logging.basicConfig(format="%(message)s")
    compiled = None if arguments.no_compile else compiled_graph.backend(logging.getLogger("ics").warning)
    rows = []
    for name in arguments.tensors or TENSORS:
        for row in measure(name, rounds=arguments.rounds, compiled=compiled):
            print("  ".join(f"{value}" for value in row.values()), flush=True)
            rows.append(row)
    arguments.csv.parent.mkdir(parents=True, exist_ok=True)
    with arguments.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
