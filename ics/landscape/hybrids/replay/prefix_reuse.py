"""G' of every layer from one pass of the updated net: what comes before layer i is computed once, not once per layer.

For layer i all earlier layers are at W(t+1), so whatever the net computes before it first reads a parameter of layer i
or of a later one is the same for every later layer too. The updated net runs once, and what each module call returns
is kept; for layer i the calls that are over by then hand back what was kept, and the rest runs at W'. Code between
calls runs every time. The result is bit-identical to full passes: the same operations on the same numbers.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from ics import stats
from ics.errors import MeasurementWarning
from ics.landscape.hybrids.full_passes import full_pass, full_passes
from ics.landscape.hybrids.plan import Hybrid, HybridPlan
from ics.landscape.hybrids.replay.call_recording import Recording
from ics.landscape.hybrids.replay.calls import Interception, ReplayError
from ics.landscape.hybrids.replay.passes import record, record_again, replay
from ics.landscape.objective import Evaluation, Objective
from ics.landscape.transition import ParameterGradients
from ics.records import Layer

_WORTHWHILE = 3  # for fewer layers the pass that is written down costs more than it saves
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.jit.ScriptModule)

EVERYTHING = float("inf")

# Remembered as long as the model lives. A model is verified when all its replays were compared once; a refused one is
# not tried again, since every try costs a pass.
_verified: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_refused: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def prefix_reuse(plan: HybridPlan, *, chunk: int | None = None) -> Iterator[tuple[Layer, ParameterGradients]]:
    """Yield each selected layer with G'_i, as `full_passes` does and with the same bits.

    A model that cannot be replayed call by call (it calls other modules each time, or changes what is kept) is
    measured by full passes from then on, and one `MeasurementWarning` says why.

    Args:
        plan: the hybrids of the selected layers.
        chunk: for how many consecutive layers to keep at a time what module calls returned. The updated net is then run
            once to see what it does, and once for each chunk, in which only what the chunk needs is kept. Default: for
            all of them, and the updated net is run once.

    Cost: one and a half forward passes, and for each selected layer a forward-backward pass of what comes after the
    first reading of its parameters; memory for what every module call returns. With `chunk`, (1 + layers / chunk)
    forward passes more, and memory for what the calls of `chunk` layers return and for one output of each block before
    them. The first time that a model is measured, one more forward pass of that part for each layer, to see that it
    can be replayed from there, and two full passes to compare with.
    """
    found: dict[str, ParameterGradients] = {}
    model = plan.transition.objective.model
    if len(plan.to_run) >= _WORTHWHILE and model not in _refused:
        try:
            _replay_all(plan, found, chunk=chunk)
        except Exception as error:  # whatever it is, full passes do without it, and raise it again if it is the user's
            _refused.add(model)
            found.clear()
            warnings.warn(
                f"G' of every layer takes a full pass each for this {type(model).__name__}, because {_reason(error)}; "
                "the numbers are the same",
                MeasurementWarning,
                stacklevel=2,
            )
    yield from full_passes(plan, found=found)


def _replay_all(plan: HybridPlan, found: dict[str, ParameterGradients], *, chunk: int | None) -> None:
    """Put G' of each hybrid that needs a pass into `found`, as far as it goes."""
    transition, hybrids = plan.transition, plan.to_run
    objective = transition.objective
    _check_kind(objective)
    interception = Interception(objective.model)
    with _eager(objective.model), objective.evaluating_often(), interception.installed():
        foreign: list[Tensor] = []
        recordings, updated = record(objective, transition.after, interception, foreign, copied=chunk is None)
        frontiers = {hybrid.layer.name: _frontiers(recordings, hybrid) for hybrid in hybrids}
        _settle(recordings, list(frontiers.values()))
        first_pass = recordings
        # A model that was verified may still change its ways, so one hybrid is checked each time.
        checked = hybrids if objective.model not in _verified else (hybrids[len(hybrids) // 2],)
        for together in plan.chunks(chunk):
            if chunk is not None:
                recordings = []  # nothing else holds them: what the last chunk kept is freed before more is kept
                ends = [frontiers[hybrid.layer.name] for hybrid in together]
                recordings, again = record_again(objective, transition.after, interception, first_pass, ends)
                _check(updated, again)
            for hybrid in together:
                at = frontiers[hybrid.layer.name]
                _release(recordings, at)
                if hybrid in checked:
                    _check(updated, replay(objective, transition.after, interception, recordings, at))
                there = replay(
                    objective,
                    hybrid.parameters,
                    interception,
                    recordings,
                    at,
                    wanted=hybrid.wanted,
                    foreign=foreign if hybrid in checked else None,
                )
                found[hybrid.layer.name] = there.gradients
        # A replay of the whole pass after the last hybrid shows whether that one left something behind.
        everything = [EVERYTHING] * len(recordings)
        _check(updated, replay(objective, transition.after, interception, recordings, everything))
    if objective.model not in _verified:
        for number in sorted({len(hybrids) // 2, len(hybrids) - 1}):
            _check_gradients(full_pass(transition, hybrids[number]), found[hybrids[number].layer.name])
    _verified.add(objective.model)


def _settle(recordings: Sequence[Recording], frontiers: Sequence[Sequence[float]]) -> None:
    """End of the first pass: give up what no replay will need."""
    for recording, of_one in zip(recordings, zip(*frontiers, strict=True), strict=True):
        recording.settle(last_frontier=max(of_one))


def _release(recordings: Sequence[Recording], frontier: Sequence[float]) -> None:
    """Free what neither this replay nor a later one will hand back."""
    for recording, at in zip(recordings, frontier, strict=True):
        recording.release(at)


def _check_gradients(expected: ParameterGradients, found: ParameterGradients) -> None:
    """A full pass must give the same gradients.

    What a call leaves where no module shows it (in a plain object, by a user's hook) is left by nobody once the call is
    handed back: the pass then finds what the updated net left, has the updated net's loss, and other gradients.
    """
    for name, gradient in expected.items():
        there = found[name]
        if (gradient is None) != (there is None):
            raise ReplayError("its gradients are others than those of a full pass")
        if gradient is None or there is None or torch.equal(gradient, there):
            continue
        tolerance = torch.finfo(gradient.dtype).eps ** 0.5  # some kernels add in another order each time
        if not bool(stats.distance([gradient], [there]) <= tolerance * stats.norm([gradient])):
            raise ReplayError("its gradients are others than those of a full pass")


def _check(updated: Evaluation, again: Evaluation) -> None:
    """The updated net must have the same loss whatever part of it is handed back.

    Asked right before each hybrid is evaluated: what a pass leaves behind where nobody looks, in a global list say, is
    then still that of the hybrid before, and shows.
    """
    if not torch.equal(again.loss.nan_to_num(), updated.loss.nan_to_num()):
        raise ReplayError("the loss is another one when its module calls hand back what they returned before")


def _frontiers(recordings: Sequence[Recording], hybrid: Hybrid) -> list[float]:
    """Return, per micro-batch, the time up to which the pass is the same as that of the updated net.

    What one micro-batch leaves in buffers for the next differs from hybrid to hybrid: then the next runs whole.
    """
    carried = [any(recording.carries_over for recording in recordings[:number]) for number in range(len(recordings))]
    return [0.0 if late else one.frontier(hybrid.unlike_later) for one, late in zip(recordings, carried, strict=True)]


def _check_kind(objective: Objective) -> None:
    if any(isinstance(module, _PARALLEL) for module in objective.model.modules()):
        raise ReplayError("calls of its modules cannot be intercepted (it is parallel or scripted)")
    if objective.writes_parameters:
        raise ReplayError("it writes into its parameters")


def _eager(model: nn.Module) -> AbstractContextManager[object]:
    """Compiled code would call no stand-in."""
    compiled = any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ReplayError) else f"replaying it raised {type(error).__name__}: {error}"
