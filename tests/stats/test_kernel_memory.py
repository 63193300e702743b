"""The kernels work with addresses: nothing may be written to memory that is not theirs any more."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

DEBUG = next((path for path in Path("/lib").glob("*/libc_malloc_debug.so.0")), None)

PROGRAM = """
    import torch
    from ics import stats

    generator = torch.Generator().manual_seed(0)
    shapes = [(128, 100), (64, 3, 9, 9), (7, 5), (2, 64, 32, 32), (2, 3, 700)]
    for number in range(300):
        shape = shapes[number % len(shapes)]
        x = torch.randn(shape, generator=generator).to((torch.float32, torch.bfloat16, torch.float16)[number % 3])
        affine = (torch.zeros(shape[1]), torch.ones(shape[1])) if number % 2 else None
        stats.reduce(x, channel_axis=1, affine=affine, histogram=number % 5 != 0)
        stats.backward_sums(x, x, x if number % 2 else None, channel_axis=1)
        tasks = [stats.Task(tuple(x.shape), x.stride(), x.dtype, 1), stats.Task(tuple(x.shape), x.stride(), x.dtype, 1)]
        group = stats.group_of(tasks, histogram=True)
        if group is not None:
            group.measure([x, x])
    print(stats.backend().name)
"""


@pytest.mark.skipif(DEBUG is None, reason="glibc's checking malloc is not here")
def test_no_kernel_writes_to_memory_that_was_given_back() -> None:
    pytest.importorskip("numba", reason="there are no kernels without numba")
    environment = {**os.environ, "LD_PRELOAD": str(DEBUG), "MALLOC_CHECK_": "3"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fused"
