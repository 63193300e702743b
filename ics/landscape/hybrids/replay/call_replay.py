"""A forward pass in which every call before a moment hands back what it returned in the recorded pass.

For layer i all earlier layers are at W(t+1), as in the recorded pass. What a call returned before the first reading of
a parameter that differs is therefore what it would return now, bit for bit, and need not be computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ics.landscape.hybrids.replay.call_recording import Recording
from ics.landscape.hybrids.replay.calls import Call, Forward, ReplayError
from ics.landscape.hybrids.replay.kept_values import Kept, tensors_in


class Replay:
    """The handler of one replay; calls that are not over at `frontier` run for real.

    Raises `ReplayError` where the calls are not those of the recording, or a kept tensor was written into.
    """

    def __init__(self, recording: Recording, frontier: float) -> None:
        self._recording = recording
        self._frontier = frontier
        self._position = 0
        self._running = False
        self._failure: ReplayError | None = None
        self._given: dict[Kept, Tensor] = {}
        self._ours: dict[int, Tensor] = {}
        self._shared: dict[int, tuple[Tensor, int]] = {}

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Hand back what the call returned, or run it."""
        if self._running:  # behind the frontier nothing of the recording holds, not even which modules are called
            return forward(*args, **kwargs)
        if self._position >= len(self._recording.calls):
            raise self._failed("it calls more modules than before")
        call = self._recording.calls[self._position]
        if call.enter > self._frontier:
            self._running = True
            return forward(*args, **kwargs)
        if call.module is not module:
            raise self._failed("it calls its modules in another order than before")
        if not call.precedes(self._frontier):
            # Begun before the frontier, not over by then: a container of the layer. Its own code runs, and the calls
            # inside it come here one by one.
            self._position += 1
            return forward(*args, **kwargs)
        self._position = call.following  # the calls inside it are not made
        return self._hand_back(call, args, kwargs)

    def check(self) -> None:
        """Raise `ReplayError` if the pass differed from the recording, or wrote into a kept tensor and spoiled it."""
        if self._failure is not None:
            raise self._failure  # the model may have caught it
        if any(tensor._version != version for tensor, version in self._shared.values()):
            raise ReplayError("it writes into a tensor that it left alone before")

    def _failed(self, why: str) -> ReplayError:
        self._failure = ReplayError(why)
        return self._failure

    def _hand_back(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        arguments = tensors_in(args, kwargs)
        if len(arguments) != call.num_arguments:
            raise self._failed("it calls a module with other arguments than before")
        # Everything the call did besides returning comes first: its result may be an argument that it wrote into.
        for position, kept in call.writes:
            self._write(arguments[position], kept)
        for change in call.changes:
            change.apply(self._hand_out)
        if call.random_state is not None:  # later draws go on from where the call left the generators
            call.random_state.restore()
        assert call.result is not None
        return call.result.rebuild(arguments, self._hand_out)

    def _hand_out(self, kept: Kept) -> Tensor:
        """Return the kept tensor: the same object whenever it is asked for, a copy if the pass will write into it."""
        # Later code may compare objects or add in place (`out += shortcut`), and then all who hold it must see that.
        if kept not in self._given:
            copied = kept.needs_copy(self._frontier)
            self._given[kept] = self._own(kept.copy() if copied else kept.alias(), copied=copied)
        return self._given[kept]

    def _write(self, tensor: Tensor, kept: Kept) -> None:
        """Let an argument hold what the call wrote into it.

        A tensor that this replay handed out is pointed at the kept memory, which costs nothing; any other is written
        to, as the call itself would have done.
        """
        if id(tensor) not in self._ours:
            with torch.no_grad():
                tensor.copy_(kept.tensor)
            return
        copied = kept.needs_copy(self._frontier)
        tensor.data = kept.copy() if copied else kept.alias()
        self._given[kept] = self._own(tensor, copied=copied)

    def _own(self, tensor: Tensor, *, copied: bool) -> Tensor:
        self._ours[id(tensor)] = tensor  # the tensor itself too: while it lives, no other tensor has its id
        if copied:
            self._shared.pop(id(tensor), None)
        else:
            self._shared[id(tensor)] = (tensor, tensor._version)
        return tensor
