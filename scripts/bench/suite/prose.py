"""What docs/performance.md says between its tables; the braces are filled from the CSVs."""

INTRODUCTION = """# What recording costs, beside other tools

How much longer a step takes when `ics` records it, how much longer with other tools, and whether `ics` meets its
targets. `ics bench` measures your own machine and model in minutes.

The same training steps (forward, backward, SGD with momentum, batch 128) run side by side in one process: plain,
recorded by `ics`, and with the tools one would use instead. Numbers are ratios to the plain step, taken within a round
in which every way had its turn. They are the median of the rounds, with the 95 % interval of that median in brackets
(the range where there are fewer than six rounds). Each way trains its own copy of the model from the same start, with
no other way's hooks on it.

{machine}

    scripts/bench/suite/environment.sh                      # .bench-venv: ics and the other tools, pinned
    .bench-venv/bin/python -m scripts.bench.suite           # half an hour on two quiet cores; --resume 60 goes on
    .bench-venv/bin/python -m scripts.bench.suite.growth    # about 6 minutes
    .bench-venv/bin/python -m scripts.bench.suite.page      # this page and its figures, from the CSVs
"""

OWN_COST = """## What `ics` costs

{table}

*plain, a second copy* shows the difference that timing alone produces. Steps of the MLP are timed in blocks (column
`steps_per_round` of the CSVs), those of the big nets one by one.

**Every ratio of this page includes writing**, and no way is charged for another's. A recorder hands over its rows every
200 steps, and a thread lays out the columns and writes them while training goes on. A block of 200 steps begins
half-way between two such turns, so one page is written beside it, as in a long run. It ends when that page is on disk.
A shorter sample contains no turn. There the clock stops until the threads of the process stand still, and the CPU time
of writing one recorded step is added: the slope between closing a run of {short} and one of {long} recorded steps (ten
times as many for the MLP; 200 and 2000 for an idle recorder), as if none of it ran beside the training. kB are the
slope of the size of those two runs: what one more step leaves on disk. Instruments that evaluate the loss elsewhere
(gradient shift, loss along a line) are in [benchmarks.md](benchmarks.md).
"""

OTHERS = """## What other tools cost

Every tool records at every step here, and all numbers of one column come from one run. A tool that can be asked to
write what it holds is asked to do so inside its own sample. wandb hands over to a process of its own, which gets half a
second after each sample, outside the clock. kB a step (one number per net) is what lies on disk at the end, divided by
the steps recorded. For `ics` it is the slope from above.

{table}

![Plain steps that a recorded step takes, per tool and net](bench/suite_tools.png)

{contests}

Seen earlier on two cores of another machine, in plain steps (MLP of 4.7 ms / ResNet-18 / VGG-16-BN): hand-written
hooks 5.6 / 1.96 / 1.73, torchinstruments 75.7 / 20.4 / 19.0, torchlens 10.2 / 3.6 / 3.6, TensorBoard histograms
81.8 / 8.1 / 6.6, wandb.watch 15.5 / 1.18 / 1.20, monitorch 20.6 / 1.08 / 1.13, cockpit 131 on the MLP.
"""

PRESETS = """## The presets

{table}

The ratios are of a measured step. By default the presets measure at every tenth step, and an idle step costs what the
table of targets says. The landscape (gradient shift and the loss along a line in `standard`; drift, curvature and
attribution too in `full`) evaluates the loss elsewhere. It costs whole steps, is due at every hundredth or thousandth
step, and is not in these ratios. [benchmarks.md](benchmarks.md) has the cost of each.
"""

GROWTH = """## How it grows

![Cost along depth, width, batch and length of the run](bench/growth.png)

{table}

Time per step includes everything until the run is closed. Reading is the time that `ics.open_runs` and one column of
one layer take afterwards. Depth, width and batch are in [growth_depth.csv](bench/growth_depth.csv),
[growth_width.csv](bench/growth_width.csv) and [growth_batch.csv](bench/growth_batch.csv).
"""
