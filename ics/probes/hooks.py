"""Attaches to a model for the length of a measured step. The one place where hooks are registered."""

from __future__ import annotations

import functools
import operator
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ics.probes.counted_passes import ForwardPasses, mode_of
from ics.probes.following.recompute import Pending, Recomputation, in_backward, recomputing_node
from ics.probes.following.site_rows import GradientHooks, NodeGradients
from ics.probes.following.tracker import SiteObserver, Tracker
from ics.probes.planned.learner import Learner
from ics.probes.structure.grouping import Grouping, ParameterUse, followed_modules, group_layers
from ics.records import Layer

MakeObserver = Callable[[GradientHooks, Recomputation | None], SiteObserver]


class Removable(Protocol):
    """What registering a hook returns."""

    def remove(self) -> None:
        """Remove the hook."""


def before_optimizer_step(optimizer: torch.optim.Optimizer, callback: Callable[[], None]) -> Removable:
    """Call `callback` when the gradients that the optimizer steps with are there.

    That is as `step()` begins. `step(closure)` makes the gradients itself: there `callback` is called when the closure
    has returned for the first time, so that gradients are those at the parameters that the step began with.

    Returns:
        A handle; its `remove` ends that.
    """

    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)  # args[0] is the optimizer itself
        if not callable(closure):
            callback()
            return None
        wrapped = _after_first_call(closure, callback)
        if kwargs.get("closure") is closure:
            return args, {**kwargs, "closure": wrapped}
        return (args[0], wrapped, *args[2:]), kwargs

    return optimizer.register_step_pre_hook(hook)


def _after_first_call(closure: Callable[..., Any], callback: Callable[[], None]) -> Callable[..., Any]:
    """Return the closure with `callback` called after its first call; line searches call it again elsewhere."""
    called = False

    @functools.wraps(closure)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal called
        result = closure(*args, **kwargs)
        if not called:
            called = True
            callback()
        return result

    return wrapped


class ModuleHook(partial[Any]):
    """A hook on a module, of which a copy (`copy.deepcopy`, `torch.save`) does nothing and knows nothing of `ics`.

    A subclass of `partial`, since calling it adds no call of a Python function to that of what it wraps.
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy as a function of the standard library that takes anything and returns None."""
        return getattr, (nullcontext(), "__exit__")


class Unhooked:
    """Lies beside the hooks of a module, is never called, and takes a hook out of the copy of the module.

    Copying it, or loading it from a file, deletes an entry of the copy of a mapping: both `copy` and `pickle` make
    one copy of the mapping for the copied module and for this. None stays in its place. It must lie in another mapping
    than the hook: `pickle` fills a mapping only once all of its values are there.
    """

    __slots__ = ("_hooks", "_key")

    def __init__(self, hooks: MutableMapping[Any, Any], key: str) -> None:
        self._hooks, self._key = hooks, key

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy as the deletion of the hook's copy."""
        return operator.delitem, (self._hooks, self._key)


class TensorHook:
    """A hook on a tensor, which torch leaves out of copies of the tensor without a warning."""

    __slots__ = ("_take",)
    __torch_unserializable__ = True

    def __init__(self, take: Callable[[Tensor], None]) -> None:
        self._take = take

    def __call__(self, gradient: Tensor | None) -> None:
        """Take a gradient; a value returned would replace it."""
        if gradient is not None:
            self._take(gradient)


class Hooks:
    """Hooks on modules and tensors, and what removes them.

    A model that is copied or saved while it has them gives a copy without them.
    """

    def __init__(self) -> None:
        self._handles: list[Removable] = []
        self._keys: list[tuple[MutableMapping[Any, Any], Any]] = []

    def around_each(
        self, modules: Iterable[nn.Module], before: Callable[..., None], after: Callable[..., None]
    ) -> None:
        """Call `before(module, args, kwargs)` before, and `after(module, args, kwargs, output)` after each call.

        If a module takes no hook, none of the others keeps one. `after` is called with None where the module raises.
        """
        first, last = ModuleHook(before), ModuleHook(after)
        try:
            for module in modules:
                number = module.register_forward_pre_hook(first, with_kwargs=True).id
                self._rename(number, module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
                number = module.register_forward_hook(last, with_kwargs=True, always_call=True).id
                self._rename(
                    number,
                    module._forward_hooks,
                    module._forward_hooks_with_kwargs,
                    module._forward_hooks_always_called,
                )
        except BaseException:
            self.remove()
            raise

    def after_each(self, modules: Iterable[nn.Module], take: Callable[[nn.Module, Any, Any], None]) -> None:
        """Call `take(module, args, output)` after each call of the modules.

        One key serves all of them: a handle for each module takes longer to make than its hook takes to run.
        """
        number = RemovableHandle(OrderedDict()).id  # no other hook of any module has it
        hook, key, beside = ModuleHook(take), f"ics {number}", f"ics beside {number}"
        for module in modules:
            hooks: MutableMapping[Any, Any] = module._forward_hooks
            marks: MutableMapping[Any, Any] = module._forward_hooks_with_kwargs
            hooks[key] = hook
            marks[beside] = Unhooked(hooks, key)  # under another key: the hook itself takes no keyword arguments
            self._keys += (hooks, key), (marks, beside)

    def on_gradient(self, tensor: Tensor, take: Callable[[Tensor], None]) -> None:
        """Call `take` with the gradient of a tensor as it is now, whatever is written to the tensor later."""
        self._handles.append(tensor.register_hook(TensorHook(take)))

    def on_node(self, tensor: Tensor, take: Callable[[NodeGradients, NodeGradients], None]) -> None:
        """Call `take` with what the function that made a tensor sends back to its inputs, and what it is handed."""

        def hook(inputs: NodeGradients, outputs: NodeGradients) -> None:
            take(inputs, outputs)

        assert tensor.grad_fn is not None
        self._handles.append(tensor.grad_fn.register_hook(hook))

    def remove(self) -> None:
        """Remove every hook; safe to call twice."""
        for handle in self._handles:
            handle.remove()
        for hooks, key in self._keys:
            hooks.pop(key, None)
        self._handles.clear()
        self._keys.clear()

    def _rename(
        self, number: int, hooks: MutableMapping[Any, Any], marks: MutableMapping[Any, Any], *others: Any
    ) -> None:
        """Keep a registered hook under a key of our own, and have copies come out without it.

        In `marks`, that it takes keyword arguments, stands what does so: torch looks up the key alone. What is left of
        `marks` in a model that was loaded must not be taken for the mark of a hook that then has the same number.
        """
        key = f"ics {number}"
        for mapping in (hooks, marks, *others):
            mapping[key] = mapping.pop(number)
            self._keys.append((mapping, key))
        marks[key] = Unhooked(hooks, key)


class Watch:
    """Hooks on every module of a model, and a function mode while one of them runs; nothing of theirs is replaced.

    Passes in other threads are not followed. Modules that run inside a backward pass are: they recompute a
    checkpointed segment, and only gradients are taken of them. An error of ours is kept in `failure` and ends the
    measuring, as it must not end the training.

    Args:
        model: the model that is called.
        make_observer: makes what takes the sites; None to follow only the order of execution.
        pending: where calls without a graph are noted by the observer.
        learner: told of every module call, to make a plan of the pass.
        forward: told of every forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        make_observer: MakeObserver | None = None,
        *,
        pending: Pending | None = None,
        learner: Learner | None = None,
        forward: ForwardPasses | None = None,
    ) -> None:
        self.forward = ForwardPasses() if forward is None else forward
        self.model = model
        self.failure: Exception | None = None
        self._names = followed_modules(model)
        self._use = ParameterUse(model.modules())
        self._make_observer = make_observer
        self._pending = {} if pending is None else pending
        self._learner = learner
        self._thread = threading.get_ident()
        self._hooks = Hooks()
        observer = None if make_observer is None else make_observer(self, None)
        self._calls = _NestedCalls(Tracker(self._names, observer, on_part=self._begin_part))
        self._again: tuple[Recomputation, _NestedCalls] | None = None

    @property
    def tracker(self) -> Tracker:
        """What the forward passes showed."""
        return self._calls.tracker

    def attach(self) -> None:
        """Register a hook before and after every module; all or none."""
        self._hooks.around_each(self._names, self._before, self._after)

    def detach(self) -> None:
        """Remove every hook, those on tensors included; safe to call twice."""
        self._hooks.remove()
        self._calls.end()
        if self._again is not None:
            self._again[1].end()
            self._again = None

    def layers(self, grouping: Grouping) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
        """Return the layers that ran, and the modules whose parameters nothing used."""
        return group_layers(
            self.model,
            called=list(self.tracker.called),
            follows=self.tracker.follows,
            used=self._use.slots,
            grouping=grouping,
        )

    def on_gradient(self, tensor: Tensor, take: Callable[[Tensor], None]) -> None:
        """Call `take` with the gradient of a tensor as it is now, whatever is written to the tensor later."""
        self._hooks.on_gradient(tensor, partial(self._guarded, take))

    def on_node(self, tensor: Tensor, take: Callable[[NodeGradients], None]) -> None:
        """Call `take` with what the function that made a tensor sends back to its inputs."""
        self._hooks.on_node(tensor, lambda inputs, _: self._guarded(take, inputs))

    def before_function(self, calls: _NestedCalls, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A function is about to be called while the modules of a sequence of calls run."""
        if calls is not self._current():
            return None
        self._guarded(self._use.notice, args)
        self._guarded(self._use.notice, kwargs)
        return self._guarded(calls.tracker.before_function, function, args, kwargs)

    def after_function(self, calls: _NestedCalls, seen: Any, result: Any) -> None:
        """A function was called; `seen` is what `before_function` returned."""
        if seen is not None:
            self._guarded(calls.tracker.after_function, seen, result)

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        calls = self._current()
        if calls is not None and module in self._names:  # a shallow copy of a module shares its hooks
            if self._learner is not None:
                self._guarded(self._learner.enter, module, args)
            self._guarded(calls.tracker.enter, module, (args, kwargs))
            calls.enter(self, module)

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls = self._current()
        if calls is not None and module in calls.running:  # it is not if another hook raised before ours was called
            if self._learner is not None:
                self._guarded(self._learner.leaving, module, output)
            self._guarded(calls.tracker.leave, module, (args, kwargs), output)
            if self._learner is not None:
                self._guarded(self._learner.left)
            calls.leave(module)

    def _begin_part(self, module: nn.Module, begins: bool) -> bool:
        """A module is called from outside the model; returns whether a pass begins with it."""
        mode = mode_of(module, graph=torch.is_grad_enabled())
        if not begins and self.forward.goes_on(mode):
            return False
        self.forward.begin(module, mode)
        self._use.refresh()
        if self._learner is not None:
            self._learner.begin()
        return True

    def _current(self) -> _NestedCalls | None:
        """Return the calls of the pass that is running; None if it is not to be followed."""
        if not in_backward():
            return self._calls if threading.get_ident() == self._thread else None
        node = recomputing_node()
        # Without reentry, the forward pass had the graph: what runs now only fills in what it had not saved.
        if node is None or self._make_observer is None:
            return None
        if self._learner is not None:
            self._learner.refuse("its backward pass runs modules again")
        if self._again is None or self._again[0].node != node:
            # One segment has been run, and another begins: which calls the first repeats must be known before.
            if self._again is not None:
                self._again[0].resolve()
                self._again[1].end()
            segment = Recomputation(node, self._pending)
            tracker = Tracker(self._names, self._make_observer(self, segment), single_pass=True)
            self._again = segment, _NestedCalls(tracker)
        return self._again[1]

    def _guarded(self, call: Callable[..., Any], *args: Any) -> Any:
        if self.failure is not None:
            return None
        try:
            with torch._C.DisableTorchFunction():  # function modes, ours and the user's, need not see what we compute
                return call(*args)
        except Exception as error:
            self.failure = error
            return None


@dataclass
class _NestedCalls:
    """A sequence of nested module calls: its tracker, the modules that run, and the function mode while any does."""

    tracker: Tracker
    running: list[nn.Module] = field(default_factory=list)
    mode: _FunctionMode | None = None

    def enter(self, watch: Watch, module: nn.Module) -> None:
        """A module starts to run. The mode spans the outermost call, so that it never sees a backward pass begin."""
        self.running.append(module)
        if self.mode is None:
            self.mode = _FunctionMode(watch, self)
            self.mode.__enter__()

    def leave(self, module: nn.Module) -> None:
        """A module has run."""
        while self.running.pop() is not module:
            pass
        if not self.running:
            self.end()

    def end(self) -> None:
        """End the function mode."""
        self.running.clear()
        if self.mode is not None:
            self.mode.__exit__(None, None, None)
            self.mode = None


class _FunctionMode(TorchFunctionMode):
    """Sees functional activations, those inside library modules too; torch turns it off while a function runs, so
    that none is seen twice."""

    def __init__(self, watch: Watch, calls: _NestedCalls) -> None:
        super().__init__()
        self._watch, self._calls = watch, calls

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        seen = self._watch.before_function(self._calls, func, args, kwargs)
        result = func(*args, **kwargs)
        self._watch.after_function(self._calls, seen, result)
        return result
