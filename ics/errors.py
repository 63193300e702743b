"""What can go wrong, as a tree.

- `IcsError`: every error and mistake that `ics` reports itself
    - `UsageError` (also a `ValueError`): something handed in cannot be used; the message says what was expected,
      what came and what to type instead
        - `SelectionError`: a layer, column, recipe or table was named that is not there; lists near matches
        - `LossError`: `loss_fn` did not return one number that depends on the parameters
    - `StoreError`: what is on disk cannot be read or written
        - `NotARunError`: a path that holds no run
        - `DamagedPartError`: a Parquet part that cannot be read; names the part, the others stay readable
        - `SchemaVersionError`: a run written by a newer schema than this version reads
- `MeasurementWarning` (a `UserWarning`): a measurement that was skipped, switched off or is not what it seems
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IcsError(Exception):
    """Every error that `ics` reports itself."""


class UsageError(IcsError, ValueError):
    """Something handed in cannot be used."""


class SelectionError(UsageError):
    """A name that is not there."""


class LossError(UsageError):
    """`loss_fn` did not return one number that depends on the parameters."""


class StoreError(IcsError):
    """What is on disk cannot be read or written."""


class NotARunError(StoreError):
    """A path that holds no run."""


class DamagedPartError(StoreError):
    """A Parquet part that cannot be read."""


class SchemaVersionError(StoreError):
    """A run written by a newer schema than this version reads."""


class MeasurementWarning(UserWarning):
    """A measurement that was skipped, switched off or is not what it seems."""


def unknown_name(kind: str, name: str, known: Iterable[str], *, limit: int = 8) -> SelectionError:
    """Return the error for `name`, which is no `kind`, with the nearest of the `known` names.

    Example:
        >>> str(unknown_name("recipe", "vgg11-cifr", ["vgg11-cifar", "digits-mlp"]))
        "no recipe is named 'vgg11-cifr'; did you mean 'vgg11-cifar'?"
        >>> str(unknown_name("recipe", "zzz", ["vgg11-cifar", "digits-mlp"]))
        "no recipe is named 'zzz'; there are: digits-mlp, vgg11-cifar"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return SelectionError(f"no {kind} is named {name!r}; did you mean {' or '.join(map(repr, near))}?")
    if not names:
        return SelectionError(f"no {kind} is named {name!r}; there are none")
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return SelectionError(f"no {kind} is named {name!r}; there are: {', '.join(names[:limit])}{more}")
