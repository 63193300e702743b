"""How much a claim may cost, and the nets that claims share so that their runs can be shared too.

| budget | seeds | nets | for |
|---|---|---|---|
| quick | 3 | digits, sigmoid, linear, chain | a first impression: a claim in under a minute on two cores |
| cpu | 5 | the same, longer, and small convolutional nets on images where there are some | the ledger of docs/claims |
| paper | 5 | VGG-16 on CIFAR-10, the deep linear net in full | the published settings, on a GPU |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ics.errors import UsageError, unknown_name
from ics.experiments.recipes import LABELS, recipe
from ics.experiments.training.config import RunConfig

IMAGES_VARIABLE = "ICS_CIFAR10"

_LINES = {"gradient_line": {"directions": ["gradient", "update", "random"]}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimBudget:
    """What a claim may cost.

    Attributes:
        name: `"quick"`, `"cpu"` or `"paper"`.
        num_seeds: runs per net, with seeds from 0.
        steps: optimizer steps of the digits nets.
        linear_steps: of the deep linear net.
        image_steps: of the nets on images.
        images: folder or archive of 32 x 32 images, a folder per class; None where there is none.
        image_limit: images per class and split; None is all.
    """

    name: str
    num_seeds: int
    steps: int
    linear_steps: int
    image_steps: int
    images: Path | None = None
    image_limit: int | None = None

    @property
    def bases(self) -> tuple[str, ...]:
        """The nets on which a claim about nets in general is tested."""
        if self.name == "paper":
            return ("images",)
        return ("digits", "images") if self.name == "cpu" and self.images is not None else ("digits",)


BUDGETS: Mapping[str, ClaimBudget] = {
    "quick": ClaimBudget(name="quick", num_seeds=3, steps=200, linear_steps=200, image_steps=100),
    "cpu": ClaimBudget(name="cpu", num_seeds=5, steps=1000, linear_steps=2000, image_steps=300, image_limit=200),
    "paper": ClaimBudget(name="paper", num_seeds=5, steps=5000, linear_steps=10_000, image_steps=15_000),
}


def budget_named(
    name: str, *, num_seeds: int | None = None, images: str | os.PathLike[str] | None = None
) -> ClaimBudget:
    """Return a budget, optionally with other seeds, and with the images at `images` or else at ICS_CIFAR10.

    Raises:
        SelectionError: there is no such budget.
        UsageError: fewer than one seed, or nothing lies at the path of the images.
    """
    if name not in BUDGETS:
        raise unknown_name("budget", name, BUDGETS)
    if num_seeds is not None and num_seeds < 1:
        raise UsageError(f"--seeds is at least 1, got {num_seeds}")
    where = images or os.environ.get(IMAGES_VARIABLE)
    path = None if where is None else Path(where).expanduser()
    if path is not None and not path.exists():
        raise UsageError(f"expected a folder or archive of images, got {path}, which is not there; leave --images out")
    budget = BUDGETS[name]
    return replace(budget, num_seeds=budget.num_seeds if num_seeds is None else num_seeds, images=path)


def base(budget: ClaimBudget, name: str = "digits", *, norm: str = "none", **changes: Any) -> RunConfig:
    """Return one of the nets that claims share.

    Args:
        budget: decides the size and length.
        name: `"digits"`: 4 hidden layers of 48 ReLU units, lr 0.1, batch 64; `"sigmoid"`: the same with sigmoid units;
            `"chain"`: 8 hidden layers of one tanh unit; `"linear"`: the deep linear net of Santurkar et al. 2018;
            `"images"`: a small VGG on a slice of the images, at `paper` VGG-16 on all of them.
        norm: a name in `ics.experiments.nets.norms.NORMS`.
        changes: settings of `RunConfig`; also pass a name as `net=` if the norm alone does not tell nets apart.

    Every instrument is on, but runs rarely. All claims that ask for the same settings share a run, so change no more
    than the claim is about.

    Raises:
        SelectionError: there is no such net, or no such setting.
        UsageError: `"images"` without images.

    Example:
        >>> base(BUDGETS["quick"], norm="batch").net, base(BUDGETS["quick"], "sigmoid", norm="batch").net
        ('BatchNorm', 'BatchNorm, sigmoid')
    """
    if name not in BASES:
        raise unknown_name("base net", name, BASES)
    return BASES[name](budget, norm).replace(**({"net": net_name(norm, name)} | changes))


def net_name(norm: str, base: str = "digits") -> str:
    """Return what `base` calls a net: `"standard"`, `"BatchNorm"`, `"BatchNorm, images"`, ..."""
    label = LABELS.get(norm, norm)
    return label if base == "digits" else f"{label}, {base}"


def _digits(budget: ClaimBudget, norm: str) -> RunConfig:
    steps = budget.steps
    return recipe(
        "digits-mlp",
        norm=norm,
        hidden=(48,) * 4,
        batch_size=64,
        learning_rate=0.1,
        steps=steps,
        evaluate_every=max(steps // 20, 1),
        instruments=_sparse(steps),
        options=_LINES,
        line_points=8,
    )


def _sigmoid(budget: ClaimBudget, norm: str) -> RunConfig:
    return _digits(budget, norm).replace(activation="sigmoid", init="glorot")


def _chain(budget: ClaimBudget, norm: str) -> RunConfig:
    return _digits(budget, norm).replace(hidden=(1,) * 8, activation="tanh")


def _linear(budget: ClaimBudget, norm: str) -> RunConfig:
    steps = budget.linear_steps
    few = _sparse(steps, num_measurements=5)
    # 25 layers: drift of every site and curvature would cost more than the training and no claim about it needs them.
    instruments = {name: when for name, when in few.items() if name not in ("drift", "curvature")}
    return recipe("deep-linear", norm=norm, steps=steps, instruments=instruments, line_points=8)


def _images(budget: ClaimBudget, norm: str) -> RunConfig:
    steps = budget.image_steps
    data = "cifar10" if budget.images is None else f"images:{budget.images}"
    if budget.name == "paper":
        published = recipe("vgg16-cifar", norm=norm, data=data, steps=steps)
        # Two forward passes each: claims about distributions need the same batch seen again, the recipe does not.
        return published.replace(instruments={**published.instruments, "drift": "log_spaced(40)"})
    if budget.images is None:
        raise UsageError(f"the images net needs images; type --images PATH or set {IMAGES_VARIABLE}")
    return recipe(
        "vgg16-cifar",
        norm=norm,
        model="ics.claims.nets:small_vgg",
        data=data,
        image_size=16,
        limit=budget.image_limit,
        batch_size=64,
        learning_rate=0.05,
        steps=steps,
        evaluate_every=max(steps // 10, 1),
        instruments=_sparse(steps, num_measurements=5),
        options=_LINES,
        line_points=8,
        # Small nets are fastest on one thread, and the runs beside this one use the other cores.
        device="cpu",
        num_threads=1,
    )


def _sparse(steps: int, *, num_measurements: int = 10) -> dict[str, str]:
    """Every instrument about `num_measurements` times, the shift twice as often, the curvature half as often."""
    every = max(steps // num_measurements, 1)
    cheap = ("activations", "gradients", "normalization", "gradient_line", "drift")
    instruments = dict.fromkeys(cheap, f"every({every})")
    return instruments | {"gradient_shift": f"every({max(every // 2, 1)})", "curvature": f"every({2 * every})"}


BASES: Mapping[str, Callable[[ClaimBudget, str], RunConfig]] = {
    "digits": _digits,
    "sigmoid": _sigmoid,
    "chain": _chain,
    "linear": _linear,
    "images": _images,
}
