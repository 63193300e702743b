"""Initial weights by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

from ics.errors import unknown_name

GAUSSIAN_STD = 0.1

_he = partial(nn.init.kaiming_normal_, nonlinearity="relu")

INITS: Mapping[str, Callable[[Tensor], object] | None] = {
    "default": None,
    "glorot": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "he": _he,
    "kaiming": _he,
    "he_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "lecun": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "gaussian": partial(nn.init.normal_, std=GAUSSIAN_STD),
    "orthogonal": nn.init.orthogonal_,
}
"""Name to the function that draws a weight; None leaves weights and biases as torch or torchvision made them."""


def initialise(model: nn.Module, init: str) -> None:
    """Draw the weights of all linear and convolutional layers anew, in the order of declaration; biases become 0.

    With fan_in and fan_out the number of values that enter one output and that one input enters:

    - `"default"`: changes nothing, biases neither
    - `"glorot"`: uniform on +-sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 16)
    - `"xavier_normal"`: normal, variance 2 / (fan_in + fan_out) (the same, eq. 12)
    - `"he"`, also `"kaiming"`: normal, variance 2 / fan_in (He et al. 2015, eq. 10); `"he_uniform"`: uniform, as wide
    - `"lecun"`: normal, variance 1 / fan_in (LeCun et al. 1998, eq. 16)
    - `"gaussian"`: normal, standard deviation 0.1
    - `"orthogonal"`: weights as a matrix (outputs, rest) have orthonormal rows or columns (Saxe et al. 2014)

    Args:
        model: its layers are changed in place.
        init: a name in `INITS`.

    Raises:
        SelectionError: there is no such name; lists near ones.
    """
    if init not in INITS:
        raise unknown_name("initialisation", init, INITS)
    draw = INITS[init]
    if draw is None:
        return
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
