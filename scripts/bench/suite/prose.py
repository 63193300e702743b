"""What docs/performance.md says between its tables; the braces are filled from the CSVs."""

INTRODUCTION = """# What recording costs, beside other tools

The same training steps (forward, backward, SGD with momentum, batch 128) side by side in one process: plain, recorded
by `ics`, and with what one would pick instead. Numbers are ratios to the plain step, taken within a round in which
every way had its turn: the median of the rounds, and in brackets the 95 % interval of that median (the range where
there are fewer than six rounds). Each way trains its own copy of the model from the same start, with no other way's
hooks on it.

{machine}

    scripts/bench/suite/environment.sh                      # .bench-venv: ics and the other tools, pinned
    .bench-venv/bin/python -m scripts.bench.suite           # about 12 minutes on two quiet cores
    .bench-venv/bin/python -m scripts.bench.suite.growth    # 3 minutes
    .bench-venv/bin/python -m scripts.bench.suite.page      # this page and its figures, from the CSVs
"""

OWN_COST = """## What `ics` costs

{table}

*plain, a second copy* is what timing alone lets differ. Steps of the MLP are timed in
blocks (column `steps_per_round` of the CSVs), on one thread where the CSV says so; a block of 200, after which a
recorder hands over what it has, holds its share of writing, and a shorter one is now and then disturbed by it.
The big nets are timed step by step;
the milliseconds that writing one recorded step takes were measured apart, as the slope of closing a run of {short}
and of {long} steps, and are in the ratios of this page. kB are the slope of the size of those two runs: what one more
step leaves on disk. What evaluates the loss elsewhere (gradient shift, loss along a line) is in
[benchmarks.md](benchmarks.md).
"""

OTHERS = """## What other tools cost

Every tool records at every step here. All numbers of one column come from one run. kB a step (one number per net) is
what lies on disk at the end over the steps recorded; for `ics` it is the slope of above.

{table}

![Plain steps that a recorded step takes, per tool and net](bench/suite_tools.png)

{contests}

Seen earlier on two cores of another machine, in plain steps (MLP of 4.7 ms / ResNet-18 / VGG-16-BN): hand-written
hooks 5.6 / 1.96 / 1.73, torchinstruments 75.7 / 20.4 / 19.0, torchlens 10.2 / 3.6 / 3.6, TensorBoard histograms
81.8 / 8.1 / 6.6, wandb.watch 15.5 / 1.18 / 1.20, monitorch 20.6 / 1.08 / 1.13, cockpit 131 on the MLP.
"""

GROWTH = """## How it grows

![Cost along depth, width, batch and length of the run](bench/growth.png)

{table}

Time per step holds everything until the run is closed. Reading is what `ics.open_runs` and one column of one layer
take afterwards. Depth, width and batch are in [growth_depth.csv](bench/growth_depth.csv),
[growth_width.csv](bench/growth_width.csv) and [growth_batch.csv](bench/growth_batch.csv).
"""
