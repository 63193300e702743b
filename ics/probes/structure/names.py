"""Names of modules and parameters, as in `state_dict`, without what wrappers put in front."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

ROOT = "(root)"

_WRAPPING = ("module", "_orig_mod")
_INNER = frozenset({"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"})


def strip_prefixes(name: str) -> str:
    """Return a dotted name without the parts that wrappers add: DataParallel, torch.compile, checkpoint, FSDP.

    A name alone does not tell a wrapper's `module.` from a submodule that a user called `module`; with the model
    at hand, `module_names` does.

    Example:
        >>> strip_prefixes("module._orig_mod.features.0._checkpoint_wrapped_module.weight")
        'features.0.weight'
    """
    parts = name.split(".")
    while parts and parts[0] in _WRAPPING:
        del parts[0]
    return ".".join(part for part in parts if part not in _INNER)


def module_names(model: nn.Module) -> dict[nn.Module, str]:
    """Return every module of the model with its dotted name, wrapper prefixes stripped; the model itself is "".

    A leading `module.` goes only where it can be a wrapper's: where the model holds that one child and nothing else.

    Example:
        >>> list(module_names(nn.DataParallel(nn.Sequential(nn.ReLU()))).values())
        ['', '', '0']
    """
    prefix = _wrapper_prefix(model)
    return {module: _without(prefix, name) for name, module in model.named_modules()}


def raw_names(model: nn.Module) -> dict[nn.Module, str]:
    """Return every module of the model with its name as in `named_modules`, wrapper prefixes kept."""
    return {module: name for name, module in model.named_modules()}


def kind_of(module: nn.Module) -> str:
    """Return the class name of a module; of a parametrized one that of the class it had before."""
    kind = type(module)
    return (kind.__mro__[1] if parametrize.is_parametrized(module) else kind).__name__


def _wrapper_prefix(model: nn.Module) -> str:
    parts = []
    while len(children := list(model.named_children())) == 1 and children[0][0] in _WRAPPING:
        parts.append(children[0][0])
        model = children[0][1]
    return ".".join(parts)


def _without(prefix: str, name: str) -> str:
    inside = name if not prefix else name[len(prefix) + 1 :] if name.startswith(prefix + ".") else ""
    return ".".join(part for part in inside.split(".") if part not in _INNER)
