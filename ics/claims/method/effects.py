"""An effect: what one measure says about a claim, a number per seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from ics.claims.method.estimates import Estimate, estimate
from ics.errors import UsageError, unknown_name

Scale = Literal["value", "difference", "ratio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A number per seed: a value of one net, or the difference or ratio of two nets that share the seed.

    Attributes:
        measure: short name, which the criteria of the claim use.
        meaning: what the number is, in words and with the nets it compares, e.g. `"||G - G'|| / ||G||, BatchNorm /
            standard"`.
        unit: of the number; `"1"` for ratios.
        scale: `"value"`, `"difference"`, or `"ratio"`, which is averaged over seeds by its logarithm.
        values: (seed, number); NaN is undefined, an infinite one is a number like any other.
        setting: where it was measured, if the claim covers several nets or data sets, e.g. `"digits"`.
        note: what a reader must know to interpret it, e.g. why seeds are undefined.

    Raises:
        UsageError: there is no seed, one occurs twice, or a ratio is negative.
    """

    measure: str
    meaning: str
    unit: str
    scale: Scale
    values: tuple[tuple[int, float], ...]
    setting: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        seeds = [seed for seed, _ in self.values]
        if not seeds or len(set(seeds)) < len(seeds):
            raise UsageError(f"the effect {self.measure!r} needs one value per seed, got those of seeds {seeds}")
        if self.scale == "ratio" and any(value < 0 for _, value in self.values):
            raise UsageError(f"the ratio {self.measure!r} has a negative value; type difference(...) instead of ratio")

    @property
    def numbers(self) -> tuple[float, ...]:
        """The values alone, in the order of their seeds."""
        return tuple(value for _, value in self.values)

    @property
    def estimate(self) -> Estimate:
        """The mean of the values and its interval."""
        # Ratios by their logarithms: halving and doubling count alike, and the inverse ratio has the inverse interval.
        return estimate(self.numbers, logarithmic=self.scale == "ratio")


def per_seed(
    frame: pd.DataFrame, column: str, *, by: Iterable[str] = ("step",), reduce: str = "median", where: Any = None
) -> pd.Series:
    """Reduce a column to one number per net and seed: first within each group of `by`, then over the groups.

    Args:
        frame: rows with `net` and `seed`, as `Evidence.table` and `Evidence.study` return them.
        column: the values to reduce; nulls are left out, infinite values are not.
        by: columns whose groups have equal weight. The default is the steps: the median over the layers of a step, then
            the median over steps. `()` reduces all rows at once.
        reduce: a reduction of pandas: `"median"`, `"mean"`, `"max"`, `"min"`, `"first"`, `"last"`.
        where: a boolean Series that chooses rows.

    Returns:
        A Series whose index is (net, seed).

    Raises:
        SelectionError: the column is not there.

    Example:
        >>> rows = pd.DataFrame({"net": "a", "seed": [0, 0, 0, 1], "step": [0, 0, 1, 0], "x": [1.0, 3.0, 4.0, 7.0]})
        >>> per_seed(rows, "x").to_dict()
        {('a', 0): 3.0, ('a', 1): 7.0}
    """
    keys = ["net", "seed"]
    for name in (column, *keys, *by):
        if name not in frame.columns:
            raise unknown_name("column of this frame", name, frame.columns)
    rows = frame if where is None else frame[where]
    inner = [name for name in by if name not in keys]
    if inner:
        rows = rows.groupby([*keys, *inner], dropna=False)[column].agg(reduce).reset_index()
    reduced: pd.Series = rows.groupby(keys)[column].agg(reduce)
    return reduced.astype(float)


def ratio(numbers: pd.Series, over: str, under: str, **words: Any) -> Effect:
    """Return the effect `over` / `under`, paired by seed.

    Args:
        numbers: what `per_seed` returned, of at least 0.
        over, under: names of the two nets.
        words: `measure`, and any of `meaning`, `unit`, `setting`, `note` of `Effect`.

    A seed that only one of the two has is undefined, and so are 0/0 and inf/inf.

    Raises:
        SelectionError: one of the nets has no number at all.

    Example:
        >>> numbers = pd.Series([1.0, 4.0], index=pd.MultiIndex.from_tuples([("bn", 0), ("standard", 0)]))
        >>> ratio(numbers, "bn", "standard", measure="shift").values
        ((0, 0.25),)
    """
    return _paired(numbers, over, under, "ratio", words)


def difference(numbers: pd.Series, of: str, minus: str, **words: Any) -> Effect:
    """Return the effect `of` - `minus`, paired by seed; arguments as `ratio`; inf - inf is undefined."""
    return _paired(numbers, of, minus, "difference", words)


def value(numbers: pd.Series, net: str, **words: Any) -> Effect:
    """Return the number of one net itself, for each seed; arguments as `ratio`."""
    own = _of_net(numbers, net)
    return Effect(scale="value", values=tuple(own.items()), **_words(words, f"{words.get('meaning', '')}, {net}"))


def _paired(numbers: pd.Series, first: str, second: str, scale: Scale, words: Mapping[str, Any]) -> Effect:
    # Both nets start from the same seed and see the same batches: paired, what seeds have in common cancels.
    a, b = _of_net(numbers, first), _of_net(numbers, second)
    compare = _quotient if scale == "ratio" else _minus
    nothing = float("nan")
    values = tuple((seed, compare(a.get(seed, nothing), b.get(seed, nothing))) for seed in sorted({*a, *b}))
    sign = "/" if scale == "ratio" else "-"
    unit = {"unit": "1"} if scale == "ratio" else {}
    return Effect(
        scale=scale, values=values, **_words(unit | dict(words), f"{words.get('meaning', '')}, {first} {sign} {second}")
    )


def _words(words: Mapping[str, Any], meaning: str) -> dict[str, Any]:
    complete = {"unit": "", **words, "meaning": meaning.removeprefix(", ")}
    if "measure" not in complete:
        raise UsageError("an effect needs a name; type measure='shift_relative'")
    return complete


def _of_net(numbers: pd.Series, net: str) -> dict[int, float]:
    pairs: list[tuple[Any, Any]] = numbers.index.tolist()
    nets = list(dict.fromkeys(str(name) for name, _ in pairs))
    if net not in nets:
        raise unknown_name("net with this measure", net, nets)
    found = {int(seed): float(number) for (name, seed), number in zip(pairs, numbers, strict=True) if name == net}
    return dict(sorted(found.items()))


def _quotient(a: float, b: float) -> float:
    if b == 0:
        # A net that trains to a loss of 0 beats any other by an infinite factor; two that do cannot be told apart.
        return float("nan") if a == 0 or math.isnan(a) else math.copysign(math.inf, a)
    return a / b


def _minus(a: float, b: float) -> float:
    return a - b
