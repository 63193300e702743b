"""Models by name: those of this package, and functions of your own given as `package.module:function`."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ics.errors import UsageError, unknown_name
from ics.experiments.nets.models import MODELS

MOVED: Mapping[str, str] = {"ics.experiments.claims.nets:small_vgg": "ics.claims.nets:small_vgg"}
"""Models of this package whose path has changed: a run.json names the path that held when it was written."""

_PLAIN: Mapping[str, Any] = {"norm": "none", "bias": True, "dropout": 0.0}
"""Settings that change what a net is, and their values that ask for nothing."""


def load_model(
    name: str,
    *,
    input_shape: tuple[int, ...] = (3, 32, 32),
    num_outputs: int = 10,
    norm: str = "none",
    bias: bool = True,
    dropout: float = 0.0,
    **settings: Any,
) -> nn.Module:
    """Return a freshly initialised model.

    Args:
        name: a name in `MODELS`, or `"package.module:function"`; the module may lie in the current folder. The
            function is called with those of `input_shape`, `num_outputs` (or `num_classes`), `norm`, `bias`, `dropout`
            and `settings` that it has parameters for.
        input_shape: shape of one input.
        num_outputs: number of classes or of regression outputs.
        norm: a name in `ics.experiments.nets.norms.NORMS`.
        bias: whether layers that a normalisation follows have a bias.
        dropout: fraction of activations set to 0 in training.
        settings: further settings, e.g. `init`, and for the MLP `hidden` and `activation`; a model that has no
            parameter for one is built without it.

    Raises:
        SelectionError: no model, or no function of the module, has this name.
        UsageError: the module cannot be imported, the function fails or returns no module, or it takes no `norm`,
            `bias` or `dropout` although one is asked for.

    Example:
        >>> load_model("mlp", input_shape=(4,), num_outputs=2, hidden=(3,)).output
        Linear(in_features=3, out_features=2, bias=True)
    """
    function = _import_function(MOVED.get(name, name)) if ":" in name else _built_in(name)
    offered = {
        "input_shape": input_shape,
        "num_outputs": num_outputs,
        "num_classes": num_outputs,
        "norm": norm,
        "bias": bias,
        "dropout": dropout,
    } | settings
    arguments = _accepted(function, offered)
    for setting, nothing in _PLAIN.items():
        if offered[setting] != nothing and setting not in arguments:
            raise UsageError(
                f"{name} has no parameter `{setting}`, so {setting}={offered[setting]!r} would do nothing; "
                f"type {setting}={nothing!r}"
            )
    try:
        model = function(**arguments)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{name} failed when called with {_listed(arguments)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} returned a {type(model).__name__}, expected a torch.nn.Module")
    return model


def _built_in(name: str) -> Callable[..., nn.Module]:
    if name in MODELS:
        return MODELS[name]
    error = unknown_name("model", name, MODELS)
    raise type(error)(f"{error}; for a model of your own type package.module:function")


def _import_function(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name or "/" in module_name or module_name.endswith(".py"):
        raise UsageError(f"a model of your own is package.module:function (no file name, no slash), got {name!r}")
    try:
        with _current_folder_importable():
            module = importlib.import_module(module_name)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        what = "there is no such module here or installed" if absent else f"importing it raised {type(error).__name__}"
        raise UsageError(f"cannot load {name!r}: {what} ({error})") from error
    function = getattr(module, function_name, None)
    if callable(function):
        return function
    if function is not None:
        raise UsageError(f"{name!r} is a {type(function).__name__}, expected a function that returns a model")
    functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    raise unknown_name(f"function of {module_name}", function_name, functions)


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Make the current folder importable: unlike `python -m`, an installed command does not search it."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _accepted(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that `function` names as parameters; `**kwargs` receives none, to avoid surprises."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # classes written in C have no signature
        return {}
    return {name: value for name, value in offered.items() if name in parameters}


def _listed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items()) or "no arguments"
