"""The shape of each unit's distribution: what remains of it without mean and variance.

All numbers are exact, from raw values in float64, one row of values per unit. A constant unit (a dead ReLU) has no
shape: NaN. A unit with a value that is not finite belongs to a net that diverged: its distances are infinite, not
unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

_ROUNDING = 1e-6
"""A spread that is a smaller part of the largest value than this is float32 rounding of a constant."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Distributions of units, standardised.

    Attributes:
        sorted: (units, n), mean 0 and variance 1 (biased) in each row, ascending; NaN in the rows of constant units.
        lost: (units,), whether a value is not finite.
    """

    sorted: Array
    lost: NDArray[np.bool_]

    @classmethod
    def of(cls, values: Array) -> Shapes:
        """Standardise (units, n) values.

        Example:
            >>> Shapes.of(np.array([[3.0, 1.0], [2.0, 2.0]])).sorted.tolist()
            [[-1.0, 1.0], [nan, nan]]
        """
        # Replaced by 0 while computing, or one infinity would make the standardised values of its unit all NaN.
        lost = np.asarray(~np.isfinite(values).all(axis=1))
        safe = np.where(lost[:, None], 0.0, values)
        centred = safe - safe.mean(axis=1, keepdims=True)
        std = np.sqrt(np.square(centred).mean(axis=1, keepdims=True))
        varies = std > _ROUNDING * np.abs(safe).max(axis=1, keepdims=True)
        return cls(np.sort(centred / np.where(varies, std, np.nan), axis=1), lost)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """(units,), whether a unit has no shape because it does not vary."""
        return np.asarray(np.isnan(self.sorted[:, 0]) & ~self.lost)


def describe(values: Array) -> Mapping[str, Array]:
    """Return how far each row of (units, n) values is from normal, and how sparse it is: names to (units,).

    - `skewness`, `excess_kurtosis`: absolute values of E z^3 and E z^4 - 3, both 0 for a normal distribution;
    - `ks`: Kolmogorov-Smirnov distance sup |F - Phi| of the standardised values, exact;
    - `wasserstein_2`: to the normal distribution, in standard deviations, exact;
    - `density`: (E|x|)^2 / E x^2 of the values as they are (Treves & Rolls 1991): 1 for |x| constant, 2/pi = 0.64 for a
      centred normal, p for values that are 0 but for a share p of equal size;
    - `zero_fraction`: share of exact zeros.
    """
    shapes = Shapes.of(values)
    z = shapes.sorted
    with np.errstate(invalid="ignore", over="ignore"):
        squares = np.square(values).mean(axis=1)
        found = {
            "skewness": np.abs((z**3).mean(axis=1)),
            "excess_kurtosis": np.abs((z**4).mean(axis=1) - 3),
            "ks": kolmogorov_smirnov(z),
            "wasserstein_2": wasserstein_2_to_normal(z),
            "density": np.abs(values).mean(axis=1) ** 2 / np.where(squares > 0, squares, np.nan),
        }
    found = {name: np.where(shapes.lost, np.inf, numbers) for name, numbers in found.items()}
    return found | {"zero_fraction": (values == 0).mean(axis=1)}


def change(before: Shapes, after: Shapes) -> Mapping[str, Array]:
    """Return how far the shape of each unit moved between two looks at the same examples: names to (units,).

    - `skewness_change`, `excess_kurtosis_change`: absolute differences of the standardised moments;
    - `shape_change`: Wasserstein-1 distance of the standardised distributions, in standard deviations.

    0 if the unit only shifted and scaled. NaN where it is constant at one of the two measurements.
    """
    # In one dimension the cheapest transport keeps the order: Wasserstein-1 is the mean gap of the sorted values.
    a, b = before.sorted, after.sorted
    found = {
        "skewness_change": np.abs((b**3).mean(axis=1) - (a**3).mean(axis=1)),
        "excess_kurtosis_change": np.abs((b**4).mean(axis=1) - (a**4).mean(axis=1)),
        "shape_change": np.abs(b - a).mean(axis=1),
    }
    lost = before.lost | after.lost
    return {name: np.where(lost, np.inf, numbers) for name, numbers in found.items()}


def kolmogorov_smirnov(ascending: Array) -> Array:
    """Return sup_x |F(x) - Phi(x)| of each row of ascending standardised values, shape (units,)."""
    n = ascending.shape[1]
    normal = special.ndtr(ascending)
    steps = np.arange(n + 1) / n
    above, below = (steps[1:] - normal).max(axis=1), (normal - steps[:-1]).max(axis=1)
    return np.asarray(np.maximum(above, below))


def wasserstein_2_to_normal(ascending: Array) -> Array:
    """Return sqrt(int_0^1 (F^-1(u) - Phi^-1(u))^2 du) of each row of ascending standardised values, shape (units,).

    F^-1 is constant between i/n and (i + 1)/n, where int Phi^-1 du = phi(Phi^-1(i/n)) - phi(Phi^-1((i + 1)/n)).
    """
    quantile = special.ndtri(np.arange(ascending.shape[1] + 1) / ascending.shape[1])
    density = np.exp(-(quantile**2) / 2) / np.sqrt(2 * np.pi)
    crossed = ascending @ (density[:-1] - density[1:])
    own = np.square(ascending).mean(axis=1)
    return np.asarray(np.sqrt(np.maximum(own + 1 - 2 * crossed, 0.0)))


def typical(numbers: Array) -> float:
    """Return the median over the units that have a number; NaN if none has."""
    defined = numbers[~np.isnan(numbers)]
    return float(np.median(defined)) if len(defined) else float("nan")


@lru_cache(maxsize=64)
def of_normal_draws(n: int) -> Mapping[str, float]:
    """Return the median `describe` of n normal draws: what n values show of a distribution that is exactly normal."""
    draws = np.random.default_rng(0).standard_normal((101, n))
    return {name: typical(numbers) for name, numbers in describe(draws).items()}
