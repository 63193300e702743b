"""Which tensor belongs to which layer, call and site, told from what modules and functions take and return."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from ics.probes.structure.activations import ActivationFunction, Asymptotes, activation_called, is_activation
from ics.probes.structure.modules import Role, channel_axis, role_of
from ics.probes.structure.names import ROOT, kind_of
from ics.probes.structure.tensors import TensorMap, first_tensor, holds_complex
from ics.stats import default_channel_axis


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the forward pass. `layer`, `call` and `site` are unique within a pass."""

    layer: str
    call: int
    site: str
    source: str | None
    axis: int
    asymptotes: Asymptotes | None = None

    @property
    def key(self) -> tuple[str, int, str]:
        """What makes the site unique in a pass."""
        return self.layer, self.call, self.site


@dataclass(frozen=True, slots=True)
class Normalization:
    """One call of a normalisation: its module, the layer and call its rows belong to, and the layer it follows."""

    module: nn.Module
    layer: str
    call: int
    axis: int
    of: nn.Module | None
    of_layer: str | None

    def site(self, name: str) -> Site:
        """Return the site called `name` of this call."""
        return Site(self.layer, self.call, name, kind_of(self.module), self.axis)


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a tensor is traced to: the layer and call it belongs to, and what made it last."""

    module: nn.Module
    layer: str
    call: int
    axis: int
    stage: Literal["layer", "normalization", "activation"]


@dataclass(slots=True)
class _Frame:
    """A module that is running."""

    module: nn.Module
    role: Role
    call: int = 0
    origin: _Origin | None = None
    input_site: Site | None = None
    holds_layers: bool = False


class SiteObserver(Protocol):
    """Takes what a tracker finds."""

    def site(self, site: Site, tensor: Tensor) -> None:
        """Take the tensor of a site."""

    def unmeasured(self, site: Site, reason: str) -> None:
        """Take a site whose tensor has no statistics, and why."""

    def withdraw(self, site: Site) -> None:
        """Take back a site that turned out to be none."""

    def normalization(self, normalization: Normalization, x: Tensor, output: Tensor) -> None:
        """Take the input and output of a normalisation: its sites `normalized` and `scaled`, and its own table."""


@dataclass
class Tracker:
    """Follows one forward pass after another and hands each site to an observer before anything overwrites its tensor.

    A normalisation or an activation belongs to layer L if its input is the very tensor that L (or L's normalisation)
    returned and nobody has written to it since; otherwise it has rows of its own. `+=` of a shortcut, for one, makes
    a ResNet's last ReLU its own.

    Args:
        names: modules to dotted names; modules that are not in it are not followed.
        observer: takes the sites; None to follow only the order of execution.
        single_pass: whether everything belongs to one pass, as in the recomputation of a checkpointed segment.
        on_part: told of each module that is called from outside, and whether a new pass begins with it; returns
            whether one does.
    """

    names: Mapping[nn.Module, str]
    observer: SiteObserver | None
    single_pass: bool = False
    called: dict[nn.Module, None] = field(default_factory=dict)
    follows: dict[nn.Module, nn.Module] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    on_part: Callable[[nn.Module, bool], bool] = lambda module, begins: begins
    _stack: list[_Frame] = field(default_factory=list)
    _outermost: set[nn.Module] = field(default_factory=set)
    _calls: Counter[Any] = field(default_factory=Counter)
    _taken: set[tuple[str, int, str]] = field(default_factory=set)
    _origins: TensorMap[_Origin] = field(default_factory=TensorMap)
    _sources: TensorMap[str] = field(default_factory=TensorMap)

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """A module is about to run on `inputs`."""
        if not self._stack and not self.single_pass:
            self._begin(module)
        self.called.setdefault(module)
        frame, x = _Frame(module, role_of(module)), first_tensor(inputs)
        # Looked up before the module runs: one that writes to its input in place would leave another version.
        if frame.role == "normalization":
            frame.origin = self._origins.get(x)
        elif frame.role == "layer":
            frame.call = self._count(self._name(module))
            if x is not None:
                source = self._sources.get(x)
                frame.input_site = Site(self._name(module), frame.call, "input", source, channel_axis(module, x))
                self._hand(frame.input_site, x)
            elif holds_complex(inputs):
                frame.input_site = Site(self._name(module), frame.call, "input", None, 0)
                self._hand_complex(frame.input_site)
        # A layer that calls layers is a container with a parameter of its own (see `_leave_layer`).
        if frame.role != "other":
            for outer in self._stack:
                outer.holds_layers = True
        self._stack.append(frame)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A module has run; `output` is None if it raised."""
        frame = self._pop(module)
        result = first_tensor(output)
        if frame is not None and frame.role == "layer" and result is None and holds_complex(output):
            self._leave_complex(frame)
        if frame is None or result is None:
            return
        if frame.role == "normalization" and (x := first_tensor(inputs)) is not None:
            self._leave_normalization(frame, x, result)
        elif frame.role == "layer":
            self._leave_layer(frame, result)
        # The innermost module made the tensor; containers around it hand it on.
        if self._sources.get(result) is None:
            self._sources[result] = kind_of(module)

    def before_function(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[ActivationFunction, _Origin | None] | None:
        """A function is about to be called; returns what `after_function` needs if it is an activation function.

        The origin of its input is looked up now, as an in-place function makes the input another version.
        """
        called = activation_called(function, args, kwargs) if self._stack else None
        if called is None:
            self._notice_write(function, args)
            return None
        return called, self._origins.get(first_tensor(args) if args else first_tensor(kwargs))

    def after_function(self, seen: tuple[ActivationFunction, _Origin | None], result: Any) -> None:
        """An activation function was called."""
        if isinstance(result, Tensor) and first_tensor(result) is not None:
            self._activated(*seen, result)

    def _begin(self, module: nn.Module) -> None:
        """Start a new pass where the root is called, or where any outermost module is called again."""
        # Users call the model, or parts of it one after the other (an encoder, then a head). A part that is called
        # again begins the next pass; a part that was not called yet belongs to this one.
        begins = module in self._outermost or self._name(module) == ROOT or not self._outermost
        if self.on_part(module, begins):
            for state in (self._calls, self._taken, self._origins, self._sources, self._outermost):
                state.clear()
        self._outermost.add(module)

    def _pop(self, module: nn.Module) -> _Frame | None:
        """Remove the frame of a module, and those above it, left behind by an exception that was caught."""
        while self._stack:
            if (frame := self._stack.pop()).module is module:
                return frame
        return None

    def _leave_complex(self, frame: _Frame) -> None:
        if frame.holds_layers:
            self._withdraw_input(frame)
        else:
            kind = kind_of(frame.module)
            self._hand_complex(Site(self._name(frame.module), frame.call, "preactivation", kind, 0))

    def _withdraw_input(self, frame: _Frame) -> None:
        if frame.input_site is not None and self.observer is not None:
            self.observer.withdraw(frame.input_site)

    def _leave_layer(self, frame: _Frame, output: Tensor) -> None:
        name, origin = self._name(frame.module), self._origins.get(output)
        if frame.holds_layers:  # a container that owns a parameter, as a class token: its output is no Wu + b
            self._withdraw_input(frame)
            return
        if origin is not None and origin.stage == "activation":  # the layer applies its own activation function
            return
        # Here the output is Wu + b as the module returned it: no activation function has been applied to it.
        axis = channel_axis(frame.module, output)
        self._hand(Site(name, frame.call, "preactivation", kind_of(frame.module), axis), output)
        self._origins[output] = _Origin(frame.module, name, frame.call, axis, "layer")

    def _leave_normalization(self, frame: _Frame, x: Tensor, output: Tensor) -> None:
        module, origin, name = frame.module, frame.origin, self._name(frame.module)
        axis = channel_axis(module, output)
        # It follows a layer only if nothing has touched that layer's output since, and no other normalisation has
        # taken it. Otherwise its rows have its own name.
        if origin is None or origin.stage != "layer" or (origin.layer, origin.call, "scaled") in self._taken:
            call = self._free_call(name, "scaled")
            seen = Normalization(module, name, call, axis, None, None)
            self._hand(Site(name, call, "input", self._sources.get(x), channel_axis(module, x)), x)
        else:
            seen = Normalization(module, origin.layer, origin.call, axis, origin.module, origin.layer)
            self.follows.setdefault(module, origin.module)
        self.order.setdefault(seen.layer, len(self.order))
        self._taken.update((seen.site("normalized").key, seen.site("scaled").key))
        if self.observer is not None:
            self.observer.normalization(seen, x, output)
        self._origins[output] = _Origin(module, seen.layer, seen.call, axis, "normalization")

    def _activated(self, function: ActivationFunction, origin: _Origin | None, result: Tensor) -> None:
        module = self._stack[-1].module
        name = self._name(module)
        source = kind_of(module) if is_activation(module) else function.name
        # Two activations of one pre-activation (as in gated units): the layer has one row, the second gets its own.
        if origin is None or (origin.layer, origin.call, "activation") in self._taken:
            layer, call, axis = name, self._free_call(name, "activation"), default_channel_axis(result)
        else:
            layer, call, axis = origin.layer, origin.call, origin.axis
        self._hand(Site(layer, call, "activation", source, axis, function.asymptotes), result)
        self._origins[result] = _Origin(module, layer, call, axis, "activation")
        self._sources[result] = source

    def _notice_write(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Forget inference tensors that are written to: unlike others they count no versions."""
        if args and isinstance(args[0], Tensor) and args[0].is_inference() and _writes(function):
            self._origins.forget(args[0])
            self._sources.forget(args[0])

    def _hand(self, site: Site, tensor: Tensor) -> None:
        self.order.setdefault(site.layer, len(self.order))
        self._taken.add(site.key)
        if self.observer is not None:
            self.observer.site(site, tensor)

    def _hand_complex(self, site: Site) -> None:
        self.order.setdefault(site.layer, len(self.order))
        self._taken.add(site.key)
        if self.observer is not None:
            self.observer.unmeasured(site, "its numbers are complex: they have no order and no moments here")

    def _name(self, module: nn.Module) -> str:
        return self.names[module] or ROOT

    def _count(self, key: Any) -> int:
        self._calls[key] += 1
        return self._calls[key] - 1

    def _free_call(self, layer: str, site: str) -> int:
        """Return how often this site of this layer has occurred, past the calls that are taken."""
        while (layer, call := self._count((layer, site)), site) in self._taken:
            pass
        return call


def _writes(function: Callable[..., Any]) -> bool:
    name = getattr(function, "__name__", "")
    return name.startswith(("__i", "__set")) if name.endswith("__") else name.endswith("_")
