# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Read runs: frames and figures
#
# This notebook reads the runs of `ics demo`: a small net on digits, standard and with BatchNorm, several seeds each. If they
# do not exist, the next cell trains shorter ones. Nothing after that needs torch: you can read, analyse and plot runs on
# any laptop.

# %%
from pathlib import Path

import ics

folder = Path("../runs/demo")
if not folder.exists():
    from ics.experiments import demo_configs, train

    for config in demo_configs(num_seeds=2):
        train(config.replace(steps=61), to=folder / f"{config.net.lower()}-{config.seed}")

runs = ics.open_runs(str(folder / "*-[0-9]"))
[(run.name, run.state) for run in runs]

# %% [markdown]
# ## A table is a frame
#
# `columns` and `where` are pushed down to the files: other columns, and groups of rows without a match, are not read.
# `runs.table` puts the run, the net and the seed in front of each row.

# %%
shift = runs.table(
    "gradient_shift",
    columns=["step", "layer", "layer_index", "parameters", "shift_relative", "shift_cosine", "floor_relative"],
    where=[("parameters", "=", "weight"), ("step", ">=", 20)],
)
shift.head()

# %% [markdown]
# The schema says what each column means, with its unit and source (`ics schema gradient_shift`):

# %%
from ics.schema import TABLES

[(column.name, column.unit, column.meaning) for column in TABLES["gradient_shift"].values][2:5]

# %% [markdown]
# ## How the training went

# %%
ics.plots.training_curves(runs.table("steps"))

# %% [markdown]
# ## Internal covariate shift, against its floor

# %%
ics.plots.gradient_shift_by_layer(runs.table("gradient_shift"))

# %% [markdown]
# As a number per run: the shift as a multiple of its floor, median over steps and layers.

# %%
ratio = ics.analysis.shift_against_floor(runs.table("gradient_shift"))
ratio.groupby(["net", "seed"])["shift_over_floor"].median().unstack().round(2)

# %% [markdown]
# ## The loss along the gradient
#
# The bands span the step sizes that were probed. Training at the edge of stability holds beta at the line 2/lr.

# %%
ics.plots.landscape(runs.table("gradient_line"))

# %% [markdown]
# ## Distributions
#
# Moments and a histogram were stored, and the rest is derived. Here: skewness, and the distance to the normal distribution,
# of what enters the last activation function, at the first and the last measured step.

# %%
activations = runs.table("activations", where={"layer": "linear3", "site": ["preactivation", "scaled"]})
shape = ics.analysis.normality(activations)
ends = shape[shape["step"].isin([shape["step"].min(), shape["step"].max()])]
ends[["net", "seed", "step", "site", "std", "skewness", "excess_kurtosis", "ks"]].round(3)

# %%
ics.plots.distributions(runs.table("activations"), site="preactivation")

# %% [markdown]
# ## Two nets, in numbers and in words
#
# With two seeds an interval is only their range. `n` tells how many seeds there are.

# %%
standard = [run for run in runs if run.info["config"]["norm"] == "none"]
batchnorm = [run for run in runs if run.info["config"]["norm"] == "batch"]
ics.analysis.compare(standard, batchnorm)[["measure", "a", "b", "ratio", "low", "high", "n"]].round(3)

# %%
print(*ics.analysis.headline([*standard, *batchnorm]), sep="\n\n")
