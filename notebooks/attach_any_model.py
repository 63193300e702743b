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
# # Attach `ics` to any model and any loop
#
# This notebook trains an unmodified network from torchvision, from scratch, on scans of handwritten digits. Nothing in
# the model is changed or subclassed, and the loop is one that you would have written anyway. The recorder adds
# two lines to it.

# %%
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torchvision.models import resnet18

import ics

torch.manual_seed(0)
torch.set_num_threads(1)  # images this small are fastest on one

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
images = F.interpolate(images, size=32, mode="bilinear").expand(-1, 3, -1, -1)
labels = torch.tensor(digits.target)
images.shape, labels.shape

# %% [markdown]
# The recorder needs the model, the optimizer, and the loss as a function of the model and a batch. With the loss it can
# evaluate what training never does: the gradient after *other* layers moved, or the loss further along the gradient.

# %%
model = resnet18(num_classes=10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
loss_fn = lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])

# %% [markdown]
# Choose the instruments, and when each is due. Probes are cheap and may run often. Instruments that evaluate the loss
# elsewhere cost several passes each time (`docs/metrics.md` says how many).

# %%
num_steps, batch_size = 10, 32

recorder = ics.Recorder(
    model,
    loss_fn,
    to="../runs/notebook-resnet18",
    optimizer=optimizer,
    instruments={
        "activations": ics.every(3),
        "gradients": ics.every(3),
        "normalization": ics.every(3),
        "gradient_shift": ics.at([1, 9]),
        "gradient_line": ics.at([1, 9]),
    },
    options={"gradient_line": {"etas": [0.025, 0.05, 0.1, 0.2]}},
    overwrite=True,
)

for chosen in torch.randperm(len(labels))[: num_steps * batch_size].split(batch_size):
    batch = images[chosen], labels[chosen]
    with recorder.step(batch) as step:
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        optimizer.step()
        step.log(loss=loss)
recorder.close()

# %% [markdown]
# ## What was recorded
#
# A run is a folder. `run.info` holds what was known at the start and end, `run.tables` what was measured. Layers are
# listed in execution order, each with the BatchNorm that follows it. The shortcuts of the residual blocks stand where
# they really run.

# %%
run = ics.open_run("../runs/notebook-resnet18")
print(run.state, run.info["instruments"])
run.layers[["index", "name", "kind", "num_parameters"]]

# %% [markdown]
# ## Internal covariate shift
#
# How much did the gradient of each layer change because the layers *before* it were updated? The first row is exactly 0,
# because nothing runs before that layer. Each row also holds the floor: how much the gradient changes from one batch to
# another at the same weights.

# %%
shift = run.table("gradient_shift", where={"parameters": "weight", "step": 9})
shift[["layer", "gradient_norm", "shift_relative", "shift_cosine", "floor_relative", "floor_cosine"]].round(3)

# %%
ics.plots.gradient_shift_by_layer(run.table("gradient_shift"))

# %% [markdown]
# ## Did the recorder measure the loss that was trained?
#
# The recorder compared its own gradient with the one the optimizer used, once, and stored the result. Check this first
# in every run of your own.

# %%
run.info["objective"]

# %% [markdown]
# ## One number without a recorder
#
# Several measurements are also functions that measure once and return a frame.

# %%
line = ics.gradient_line(model, loss_fn, batch, [0.025, 0.05, 0.1, 0.2])
line[["eta", "distance", "loss", "gradient_change_l2", "taylor_error"]].round(4)

# %%
stats = ics.activation_stats(model, batch, layers="layer4*")
stats[["layer", "site", "mean", "m2", "zero_fraction"]].round(3)
