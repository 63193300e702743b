"""The recorder: all that a user's training loop touches."""

from __future__ import annotations

import atexit
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ics import stats
from ics.errors import MeasurementWarning, UsageError
from ics.recording.batches import copy_batch, holds_micro_batches
from ics.recording.budget.rule import Budget
from ics.recording.compiled import unwrapped
from ics.recording.instruments import check_options, needs_batch
from ics.recording.measuring.drift import Drift
from ics.recording.measuring.measured_step import MeasuredStep
from ics.recording.measuring.setup import Setup
from ics.recording.presets import choose
from ics.recording.provenance import layers_as_json, provenance
from ics.recording.schedule import Schedule
from ics.recording.step import Step
from ics.recording.writing.buffer import Logbook
from ics.records import Layer
from ics.store import Writer


class Recorder:
    """Record how a model trains: statistics of its layers, and the loss around every measured step.

    Measuring changes nothing: parameters, optimizer state, buffers, `.grad` and random state stay bit-identical to
    those of an unmeasured run. On steps at which nothing is due, nothing is attached, copied or synchronised.

    Args:
        model: the model that is trained; wrapped (DataParallel, torch.compile) or not.
        loss_fn: `loss_fn(model, batch)` returning the training loss as one number; needed by the instruments that
            evaluate the loss elsewhere (gradient_shift, gradient_line), not by the others.
        to: folder of the run, made by the recorder.
        optimizer: the optimizer that steps inside the block. Gradients are read as it uses them: accumulated over
            micro-batches, unscaled, clipped.
        grad_scaler: the scaler of the loss where there is one; dL/d(site) is divided by its scale.
        instruments: instrument name to schedule (`ics.every(10)`, `ics.log_spaced(200)`, `ics.at([0, 5])`, or a
            number n for every n-th step), or a preset by cost, `"light"`, `"standard"` or `"full"`
            (`ics.recording.presets`); default activations, gradients and normalization every 10 steps,
            gradient_shift and gradient_line every 100.
        layers: which layers to measure: a glob or several, a module class or its name, or a predicate on
            `ics.records.Layer`; default all.
        grouping: "paper" counts a module with weights together with the normalisation that directly follows it as
            one layer; "leaf" makes every module with parameters a layer of its own.
        options: keyword options by instrument, e.g. `{"gradient_line": {"etas": [0.05, 0.1, 0.2]}}`; they come before
            those of a preset.
        config: anything that JSON holds; stored in run.json.
        seed: stored in run.json, so that runs can be paired.
        strict: raise an error of a measurement instead of warning once and switching the instrument off.
        overwrite: replace a run that is already at `to`.
        flush_every: write what was recorded after this many steps, or every 30 s.
        budget: seconds of recording per second of training that are allowed, e.g. 0.02: schedules are stretched to
            keep it (`ics.recording.budget.rule` has the rule), and run.json says how. None leaves them as they are.

    Raises:
        UsageError: a model without parameters, an instrument that lacks what it needs, an existing run.
        SelectionError: an instrument, option or layer that is not there.

    Example:
        >>> recorder = Recorder(model, loss_fn, to="runs/mlp-0", optimizer=optimizer)   # doctest: +SKIP
        >>> for batch in loader:                                                       # doctest: +SKIP
        ...     with recorder.step(batch) as step:
        ...         optimizer.zero_grad()
        ...         loss = loss_fn(model, batch)
        ...         loss.backward()
        ...         optimizer.step()
        ...         step.log(loss=loss)
        >>> recorder.close()                                                           # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
        *,
        to: str | Path,
        optimizer: torch.optim.Optimizer | None = None,
        grad_scaler: torch.amp.GradScaler | None = None,
        instruments: Mapping[str, Schedule | int | str] | str | None = None,
        layers: Any = None,
        grouping: Literal["paper", "leaf"] = "paper",
        options: Mapping[str, Mapping[str, Any]] | None = None,
        config: Mapping[str, Any] | None = None,
        seed: int | None = None,
        strict: bool = False,
        overwrite: bool = False,
        flush_every: int = 200,
        budget: float | None = None,
    ) -> None:
        if next(model.parameters(), None) is None:
            raise UsageError(
                f"a recorder expects a model with parameters, got {type(model).__name__} without any; "
                "pass the model that is trained"
            )
        self.path = Path(to)
        choice = choose(instruments, check_options(options), loss_fn=loss_fn)
        self._schedules = dict(choice.schedules)
        self._setup = Setup(unwrapped(model), loss_fn, optimizer, grad_scaler, layers, grouping, choice.options)
        self._drift = Drift(
            self._setup.model,
            loss_fn=loss_fn,
            selection=layers,
            grouping=grouping,
            **self._setup.options.get("drift", {}),
        )
        self._budget = None if budget is None else _prepared(budget, device=next(model.parameters()).device)
        self._clock = time.perf_counter
        self._strict = strict
        self._next_step = 0
        self._upcoming: frozenset[str] | None = None
        self._layers: tuple[Layer, ...] = ()
        self._previous: tuple[Any, bool] | None = None
        self._objective_checked = False
        info = {
            "config": dict(config or {}),
            "seed": seed,
            "preset": choice.preset,
            "instruments": {name: str(when) for name, when in self._schedules.items()},
            "budget": None if self._budget is None else self._budget.describe(),
            "grouping": grouping,
            "layers": [],
            **provenance(model),
        }
        self._logbook = Logbook(Writer(self.path, info=info, overwrite=overwrite), flush_every=flush_every)
        for note in choice.notes:
            self._logbook.note(note)
        atexit.register(self.close, state="interrupted")

    def step(self, batch: Any = None, *, micro_batches: bool | None = None) -> Step:
        """Return the context of one optimizer step, to be entered around forward, backward and `optimizer.step()`.

        Args:
            batch: the batch the step trains on, as `loss_fn` takes it; under gradient accumulation the list of
                micro-batches. May be left out where no due instrument evaluates the loss.
            micro_batches: whether `batch` is such a list; default: it is a list whose members are tuples, lists or
                mappings (torch's default collate makes lists of tensors).

        Raises:
            UsageError: an instrument that is due evaluates the loss, and no batch was given.
        """
        due = self._due()
        if self._budget is not None:
            self._budget.start()
        if batch is None and (needs_batch(due) or ("drift" in due and self._drift.needs_batch)):
            raise UsageError(
                f"step {self._next_step} runs the model on its batch again and expects the batch, got none; "
                "type recorder.step(batch)"
            )
        accumulate = holds_micro_batches(batch) if micro_batches is None else micro_batches
        number = self._next_step
        measured = MeasuredStep(self._setup, due, batch, accumulate, number, self._drift) if due else None
        return Step(self, number, measured, (batch, accumulate))

    def close(self, *, state: str = "completed") -> None:
        """Write what is left, compact the run and mark its end; safe to call twice."""
        atexit.unregister(self.close)
        self._previous = None
        budget, self._budget = self._budget, None
        try:
            if budget is not None:
                self._logbook.update_info(budget=budget.describe())
        finally:
            self._logbook.close(state)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(state=_state_after(kind))

    def _due(self) -> frozenset[str]:
        """The instruments measured at the next step: asked once per step, as a budget counts how often."""
        if self._upcoming is None:
            step = self._next_step
            due = frozenset(name for name, when in self._schedules.items() if when.due(step))
            self._upcoming = due if self._budget is None else self._budget.choose(step, due)
        return self._upcoming

    def _arm(self, measured: MeasuredStep) -> bool:
        """Arm a measured step; where that fails, the step goes unmeasured."""

        def arm() -> bool:
            measured.arm()
            return True

        return bool(self._guarded(self._next_step, measured.due, arm))

    def _abandon(self) -> None:
        """A step failed in the user's code: none of it counts, and what was recorded before goes to disk now."""
        self._logbook.drain()

    def _finish(self, row: dict[str, Any], measured: MeasuredStep | None, batch: tuple[Any, bool]) -> None:
        """Take over a step whose block ended well."""
        started = self._clock() if measured is not None or self._budget is not None else 0.0
        parts: dict[frozenset[str], float] = {}
        if measured is not None:
            with measured.undisturbed():
                parts = self._measure(row, measured)
            row |= {"measuring_duration": self._clock() - started}
        self._next_step += 1
        self._upcoming = None
        self._logbook.add_step(row)
        if self._budget is not None:
            due = None if measured is None else measured.due & self._schedules.keys()
            self._budget.stop(due, parts, recording=self._clock() - started)
        self._prepare(batch)

    def _measure(self, row: dict[str, Any], measured: MeasuredStep) -> dict[frozenset[str], float]:
        """Add what is due to the logbook, and return the seconds by the instruments that they served."""
        step, started = row["step"], self._clock()
        if not self._layers:
            self._layers = self._guarded(step, (), measured.layers) or ()
            self._logbook.update_info(layers=layers_as_json(self._layers))
        parts = {frozenset[str](): self._clock() - started}
        row |= {"learning_rate": measured.learning_rate, **(self._guarded(step, (), measured.norms) or {})}
        for instruments, measure in measured.measurements(self._layers, self._previous):
            if self._schedules.keys() & instruments:
                started = self._clock()
                for block in self._guarded(step, instruments, measure) or ():
                    self._logbook.add(block, step=step)
                parts[instruments] = parts.get(instruments, 0.0) + self._clock() - started
        if not self._objective_checked and needs_batch(measured.due & self._schedules.keys()):
            self._objective_checked = True
            started = self._clock()
            self._guarded(step, (), lambda: self._check_objective(measured))
            parts[frozenset()] += self._clock() - started
        return parts

    def _check_objective(self, measured: MeasuredStep) -> None:
        """Is the loss that is measured the loss that is trained, and the same when it is evaluated again?"""
        agreement = measured.objective().check(measured.gradients(), at=measured.before)
        self._logbook.update_info(objective=agreement.describe())
        if agreement.warning:
            self._warn(agreement.warning)

    def _prepare(self, batch: tuple[Any, bool]) -> None:
        """Decide what the next step measures; keep this batch where the shift's noise floor needs a second one."""
        started = 0.0 if self._budget is None else self._clock()
        wanted = "gradient_shift" in self._due() and batch[0] is not None
        self._previous = (copy_batch(batch[0]), batch[1]) if wanted else None
        if self._budget is not None:
            if self._budget.changed:
                self._logbook.update_info(budget=self._budget.describe())
            self._budget.spend(self._clock() - started)

    def _guarded(self, step: int, instruments: Iterable[str], measure: Callable[[], Any]) -> Any:
        """Run a measurement whose error must not kill a training of hours (unless `strict`)."""
        try:
            return measure()
        except Exception as error:
            if self._strict or isinstance(error, UsageError):
                raise
            names = sorted(self._schedules.keys() & set(instruments))
            self._switch_off(names)
            what = f"{' and '.join(names)} switched off" if names else "a part of the measurement is missing"
            self._warn(f"{what} at step {step}: {type(error).__name__}: {error}")
            return None

    def _switch_off(self, names: Iterable[str]) -> None:
        for name in names:
            del self._schedules[name]
        if self._budget is not None:
            self._budget.forget(names)
        self._upcoming = None if self._upcoming is None else self._upcoming & self._schedules.keys()

    def _warn(self, text: str) -> None:
        self._logbook.note(text)
        warnings.warn(text, MeasurementWarning, stacklevel=5)


def _prepared(budget: float, *, device: torch.device) -> Budget:
    """Return the budget, with kernels compiled (or loaded) before training: no later step takes that, so none pays."""
    made = Budget(budget, device=device)
    stats.backend(device.type)
    return made


def _state_after(kind: type[BaseException] | None) -> str:
    """How a run ended: Ctrl-C and `sys.exit` are no failures of the training."""
    if kind is None:
        return "completed"
    return "failed" if issubclass(kind, Exception) else "interrupted"
