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
# # Read the ledger of claims
#
# What is said about BatchNorm, and what was measured. A ledger is a folder of JSON and Parquet files, and reading it does
# not need torch. If the project's own ledger is missing, the next cell makes a tiny one of a single claim, which decides
# nothing.

# %%
from pathlib import Path

import numpy as np
import pandas as pd

import ics
from ics.ledger import effects_frame, latest, overview, read_ledger

folder = Path("../docs/claims")
if not (folder / "ledger").exists():
    from dataclasses import replace

    from ics.claims import budget_named, claims_named, run_claims

    folder = Path("../claims")
    run_claims(claims_named(["C21"]), budget=replace(budget_named("quick"), steps=40), to=folder, workers=1)

entries = latest(read_ledger(folder))
claims = overview(entries)
claims["verdict"].value_counts()

# %%
with pd.option_context("display.max_colwidth", 90):
    display(claims.loc[claims["budget"].notna(), ["id", "sentence", "verdict", "seeds", "needs"]])

# %% [markdown]
# ## One claim
#
# C21: does BatchNorm make the loss smoother along the gradient? There is a row per measure and setting: the estimate over
# seeds, its interval, the region in which it would have to lie, and the resulting vote.

# %%
effects = effects_frame(entries)
c21 = effects[effects["id"] == "C21"]
c21[["measure", "setting", "center", "low", "high", "n", "criterion", "vote"]]

# %% [markdown]
# The same as a figure. The shaded range is where the effect lies if the claim is true.

# %%
ics.plots.forest(c21[c21["vote"].notna()])

# %% [markdown]
# ## The numbers behind it
#
# A verdict depends on the border that was chosen in advance. The value of every seed is kept, so anyone can ask the same
# numbers another question: at how many seeds is BatchNorm's value smaller at all?

# %%
rows = pd.read_parquet(folder / "ledger" / entries["C21"].budget / "C21.parquet")
ratios = rows[rows["scale"] == "ratio"]
ratios.assign(smaller=ratios["value"] < 1).groupby(["measure", "setting"]).agg(
    seeds=("seed", "nunique"),
    smaller=("smaller", "sum"),
    geometric_mean=("value", lambda values: float(np.exp(np.log(values).mean()))),
)

# %% [markdown]
# ## How it was made
#
# Each entry names its nets with all their settings, the command, and the versions.

# %%
entry = entries["C21"]
print(entry.command, entry.date, entry.versions, sep="\n")
pd.Series(entry.nets_told)
