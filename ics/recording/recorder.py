"""The recorder: all that a user's training loop touches."""

from __future__ import annotations

import atexit
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ics import stats
from ics.errors import MeasurementWarning, UsageError
from ics.recording.budget.rule import Budget
from ics.recording.inputs import copy_batch, holds_micro_batches, unwrapped
from ics.recording.instrument_base import Instrument, all_needs, check_block
from ics.recording.instruments import INSTRUMENTS, Choosable, default_options
from ics.recording.measuring.measured_step import Batch, MeasuredStep
from ics.recording.measuring.setup import Setup
from ics.recording.presets import choose
from ics.recording.provenance import layers_as_json, provenance
from ics.recording.step import Step
from ics.recording.writing.buffer import RecordBuffer
from ics.records import Block
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
            number n for every n-th step); a list of names, each at its default schedule; or a preset by cost,
            `"light"`, `"standard"` or `"full"` (`ics.recording.presets`). In place of a name stands an instrument of
            your own (`ics.Instrument`) or a statistic of a site (`ics.statistic`). Default activations, gradients and
            normalization every 10 steps, gradient_shift and gradient_line every 100.
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
        instruments: Choosable | str | None = None,
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
        choice = choose(instruments, options, loss_fn=loss_fn)
        self._instruments, self._schedules = dict(choice.instruments), dict(choice.schedules)
        shared = default_options(self._instruments)
        self._setup = Setup(unwrapped(model), loss_fn, optimizer, grad_scaler, layers, grouping, shared)
        self._kept = {name: instrument.begin(self._setup) for name, instrument in self._instruments.items()}
        self._needs = {name: all_needs(instrument) for name, instrument in self._instruments.items()}
        self._budget = None if budget is None else self._prepared(budget, device=next(model.parameters()).device)
        self._clock = time.perf_counter
        self._strict = strict
        self._next_step = 0
        self._upcoming: frozenset[str] | None = None
        self._layers_are_stored = False
        self._previous: Batch | None = None
        self._objective_checked = False
        self._said: set[str] = set()
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
        own = [each.table for each in self._instruments.values() if not _is_built_in(each)]
        writer = Writer(self.path, info=info, overwrite=overwrite, tables=own)
        self._buffer = RecordBuffer(writer, flush_every=flush_every)
        for note in choice.notes:
            self._buffer.note(note)
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
        if batch is None and any(self._instruments[name].needs_batch(self._kept[name]) for name in due):
            raise UsageError(
                f"step {self._next_step} runs the model on its batch again and expects the batch, got none; "
                "type recorder.step(batch)"
            )
        accumulate = holds_micro_batches(batch) if micro_batches is None else micro_batches
        number = self._next_step
        measured = None
        if due:
            needs = frozenset[str]().union(*(self._needs[name] for name in due))
            measured = MeasuredStep(
                self._setup, due, needs, number, batch, accumulate, previous=self._previous, kept=self._kept
            )
        return Step(self, number, measured, (batch, accumulate))

    def close(self, *, state: str = "completed") -> None:
        """Write what is left, compact the run and mark its end; safe to call twice."""
        atexit.unregister(self.close)
        self._previous = None
        budget, self._budget = self._budget, None
        try:
            if budget is not None:
                self._buffer.update_info(budget=budget.describe())
        finally:
            self._buffer.close(state)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(state=_state_after(kind))

    def _prepared(self, budget: float, *, device: torch.device) -> Budget:
        """Return the budget, with kernels compiled (or loaded) before training: no later step takes that or pays."""
        passes = frozenset(name for name, needs in self._needs.items() if "passes" in needs)
        made = Budget(budget, in_the_pass=passes, device=device)
        stats.backend(device.type)
        return made

    def _due(self) -> frozenset[str]:
        """The instruments measured at the next step: asked once per step, as a budget counts how often."""
        if self._upcoming is None:
            step = self._next_step
            due = frozenset(name for name, when in self._schedules.items() if when.due(step))
            self._upcoming = due if self._budget is None else self._budget.choose(step, due)
        return self._upcoming

    def arm_step(self, measured: MeasuredStep) -> bool:
        """Arm a measured step; where that fails, the step goes unmeasured."""
        step = measured.number

        def arm() -> bool:
            measured.arm()
            return True

        if not self._guarded(step, measured.due, arm):
            return False
        try:
            for name in sorted(measured.due & self._schedules.keys()):
                measured.attached[name] = ExitStack()
                self._guarded(step, {name}, partial(self._attach, measured, name))
        except BaseException as error:  # of a strict recorder: the block is not entered, so nobody else detaches
            self.disarm_step(measured, type(error), error, error.__traceback__)
            raise
        return True

    def _attach(self, measured: MeasuredStep, name: str) -> None:
        measured.attached[name].enter_context(self._instruments[name].attach(measured))

    def disarm_step(
        self,
        measured: MeasuredStep,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Detach what was armed, each instrument by itself."""
        try:
            for name, context in measured.attached.items():
                self._guarded(measured.number, {name}, partial(context.__exit__, kind, error, traceback))
        finally:
            measured.disarm(kind, error, traceback)

    def abandon_step(self) -> None:
        """A step failed in the user's code: none of it counts, and what was recorded before goes to disk now."""
        self._buffer.drain()

    def finish_step(self, row: dict[str, Any], measured: MeasuredStep | None, batch: Batch) -> None:
        """Take over a step whose block ended well."""
        started = self._clock() if measured is not None or self._budget is not None else 0.0
        parts: dict[frozenset[str], float] = {}
        if measured is not None:
            with measured.undisturbed():
                parts = self._measure(row, measured)
            row |= {"measuring_duration": self._clock() - started}
        self._next_step += 1
        self._upcoming = None
        self._buffer.add_step(row)
        if self._budget is not None:
            due = None if measured is None else measured.due & self._schedules.keys()
            self._budget.stop(due, parts, recording=self._clock() - started)
        self._prepare(batch)

    def _measure(self, row: dict[str, Any], measured: MeasuredStep) -> dict[frozenset[str], float]:
        """Buffer what is due, and return the seconds by the instruments that they served."""
        step, started = row["step"], self._clock()
        if not self._layers_are_stored:
            layers = self._guarded(step, (), lambda: measured.layers) or ()
            self._buffer.update_info(layers=layers_as_json(layers))
            self._layers_are_stored = bool(layers)
        parts = {frozenset[str](): self._clock() - started}
        row |= {"learning_rate": measured.learning_rate, **(self._guarded(step, (), measured.norms) or {})}
        for served, measure in self._measurements(measured):
            if self._schedules.keys() & served:
                started = self._clock()
                for block in self._guarded(step, served, measure) or ():
                    self._buffer.add(block, step=step)
                parts[served] = parts.get(served, 0.0) + self._clock() - started
        for note in measured.pass_notes:
            self._warn_once(note)
        if not self._objective_checked and any(
            "loss" in self._needs[name] for name in measured.due & self._schedules.keys()
        ):
            self._objective_checked = True
            started = self._clock()
            self._guarded(step, (), lambda: self._check_objective(measured))
            parts[frozenset()] += self._clock() - started
        return parts

    def _measurements(self, measured: MeasuredStep) -> Iterator[tuple[frozenset[str], Callable[[], list[Block]]]]:
        """Yield what is due, the cheapest first: the instruments that a measurement serves, and the measurement."""
        together = frozenset(name for name in measured.due if name in self._setup.in_the_pass)
        if together:  # first and by itself, so that those whom it serves share its cost

            def lay_out_pass_rows() -> list[Block]:
                _ = measured.pass_rows
                return []

            yield together, lay_out_pass_rows
        places = {name: (self._instruments[name].cost, place) for place, name in enumerate(self._instruments)}
        for name in sorted(measured.due, key=places.__getitem__):
            yield frozenset({name}), partial(self._blocks, self._instruments[name], measured)

    @staticmethod
    def _blocks(instrument: Instrument, measured: MeasuredStep) -> list[Block]:
        blocks = list(instrument.measure(measured))
        if not _is_built_in(instrument):
            for block in blocks:
                check_block(block, instrument.table)
        return blocks

    def _check_objective(self, measured: MeasuredStep) -> None:
        """Is the loss that is measured the loss that is trained, and the same when it is evaluated again?"""
        agreement = measured.objective.check(measured.gradients, at=measured.before)
        self._buffer.update_info(objective=agreement.describe())
        if agreement.warning:
            self._warn(agreement.warning)

    def _prepare(self, batch: Batch) -> None:
        """Decide what the next step measures; keep this batch where the shift's noise floor needs a second one."""
        started = 0.0 if self._budget is None else self._clock()
        wanted = "gradient_shift" in self._due() and batch[0] is not None
        self._previous = (copy_batch(batch[0]), batch[1]) if wanted else None
        if self._budget is not None:
            if self._budget.changed:
                self._buffer.update_info(budget=self._budget.describe())
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

    def _warn_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._warn(text)

    def _warn(self, text: str) -> None:
        self._buffer.note(text)
        warnings.warn(text, MeasurementWarning, stacklevel=5)


def _is_built_in(instrument: Instrument) -> bool:
    return INSTRUMENTS.get(instrument.name) is type(instrument)


def _state_after(kind: type[BaseException] | None) -> str:
    """How a run ended: Ctrl-C and `sys.exit` are no failures of the training."""
    if kind is None:
        return "completed"
    return "failed" if issubclass(kind, Exception) else "interrupted"
