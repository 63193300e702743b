"""The recorder: the one object that a training loop calls."""

from __future__ import annotations

import atexit
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ics import stats
from ics.errors import UsageError
from ics.recording.budget.rule import Budget
from ics.recording.guard import Guard
from ics.recording.inputs import copy_batch, extra_parameters_of, holds_micro_batches, readable_twice, unwrapped
from ics.recording.instrument_base import all_needs
from ics.recording.instruments import Choosable, default_options, is_built_in, measurements
from ics.recording.measuring.measured_step import Batch, MeasuredStep
from ics.recording.measuring.setup import SHARDED, Setup
from ics.recording.optimizers import as_optimizers, situation, steps_note
from ics.recording.presets import choose
from ics.recording.provenance import layers_as_json, provenance
from ics.recording.step import Step
from ics.recording.writing.buffer import RecordBuffer
from ics.store import Writer


class Recorder:
    """Record how a model trains: statistics of its layers, and the loss around every measured step.

    Measuring changes nothing. Parameters, optimizer state, buffers, `.grad` and random state stay bit-identical to
    those of an unmeasured run. On steps at which nothing is due, nothing is attached, copied or synchronised.

    Args:
        model: the model to train, wrapped (DataParallel, torch.compile) or not.
        loss_fn: `loss_fn(model, batch)` returning the training loss as one number. Only the instruments that evaluate
            the loss at other parameter values (gradient_shift, gradient_line) need it.
        to: folder of the run; the recorder creates it.
        optimizer: the optimizer that steps inside the block, or a list of all that do. Gradients are read as they use
            them: accumulated over micro-batches, unscaled, clipped; with `step(closure)`, as the closure left them.
        grad_scaler: the scaler of the loss, if there is one; dL/d(site) is divided by its scale.
        instruments: instrument name to schedule (`ics.every(10)`, `ics.log_spaced(200)`, `ics.at([0, 5])`, or a
            number n for every n-th step); a list of names, each at its default schedule; or a preset by cost,
            `"light"`, `"standard"` or `"full"` (`ics.recording.presets`). Instead of a name you can pass an instrument
            of your own (`ics.Instrument`) or a statistic of a site (`ics.statistic`). Default: activations, gradients
            and normalization every 10 steps, gradient_shift and gradient_line every 100.
        layers: which layers to measure: one glob or several, a module class or its name, or a predicate on
            `ics.records.Layer`; default all.
        grouping: "paper" counts a module with weights together with the normalisation that directly follows it as
            one layer; "leaf" makes every module with parameters a layer of its own.
        options: keyword options by instrument, e.g. `{"gradient_line": {"etas": [0.05, 0.1, 0.2]}}`; they override
            those of a preset.
        extra_parameters: parameters that the loss has beside the model's, by name a module or a parameter, e.g.
            `{"criterion": criterion}`; a loss_fn that is a module, and what the optimizer trains beside the model, need
            not be named.
        config: anything that JSON holds; stored in run.json.
        seed: stored in run.json, so that runs can be paired.
        strict: raise an error of a measurement instead of warning once and switching off what failed.
        overwrite: replace a run that is already at `to`.
        flush_every: write the recorded rows after this many steps, or every 30 s.
        budget: allowed seconds of recording per second of training, e.g. 0.02. Schedules are stretched to keep it
            (rule: `ics.recording.budget.rule`), and run.json says how. None leaves schedules as they are.

    Raises:
        UsageError: a model without parameters, an instrument that lacks what it needs, an existing run.
        SelectionError: an instrument, option or layer that is not there. A layer that is there and does not run is
            warned about at the first measured step.

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
        optimizer: Any = None,
        grad_scaler: torch.amp.GradScaler | None = None,
        instruments: Choosable | str | None = None,
        layers: Any = None,
        grouping: Literal["paper", "leaf"] = "paper",
        options: Mapping[str, Mapping[str, Any]] | None = None,
        extra_parameters: Mapping[str, nn.Module | nn.Parameter] | None = None,
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
        self._needs = {name: all_needs(instrument) for name, instrument in self._instruments.items()}
        evaluates = any("loss" in needs for needs in self._needs.values())
        optimizers = as_optimizers(optimizer)
        extra = extra_parameters_of(unwrapped(model), loss_fn, extra_parameters, optimizers if evaluates else ())
        self._setup = Setup(unwrapped(model), loss_fn, optimizers, grad_scaler, layers, grouping, shared, extra=extra)
        self._kept = {name: instrument.begin(self._setup) for name, instrument in self._instruments.items()}
        self._budget = None if budget is None else self._prepared(budget, device=next(model.parameters()).device)
        self._clock = time.perf_counter
        self._strict = strict
        self._next_step = 0
        self._upcoming: frozenset[str] | None = None
        self._layers_are_stored = False
        self._previous: Batch | None = None
        self._copy: Any = None
        self._objective_checked = False
        self._given_optimizer = optimizer
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
        own = [each.table for each in self._instruments.values() if not is_built_in(each)]
        # The folder comes last: a mistake found above must not have cleared the run that `overwrite` replaces.
        writer = Writer(self.path, info=info, overwrite=overwrite, tables=own)
        self._buffer = RecordBuffer(writer, flush_every=flush_every, strict=strict)
        self._guard = Guard(self._buffer, self._schedules, switch_off=self._switch_off, strict=strict)
        for note in choice.notes:
            self._buffer.note(note)
        if self._setup.is_sharded and (replaying := sorted(n for n, each in self._needs.items() if "replay" in each)):
            self._switch_off(replaying)
            self._guard.warn(f"{' and '.join(replaying)} switched off: {SHARDED}")
        atexit.register(self.close, state="interrupted")

    def step(self, batch: Any = None, *, micro_batches: bool | None = None) -> Step:
        """Return the context of one optimizer step: enter it around forward, backward and `optimizer.step()`.

        Args:
            batch: the batch the step trains on, as `loss_fn` takes it; with gradient accumulation the list of
                micro-batches. Optional if no due instrument evaluates the loss.
            micro_batches: whether `batch` is such a list; by default, a list whose members are tuples, lists or
                mappings is one (torch's default collate makes lists of tensors).

        Raises:
            UsageError: at the first step (at any, if `strict`), an instrument that is due evaluates the loss, and no
                batch was given; or an iterator was.
        """
        due = self._due()
        batch = readable_twice(batch, replays=any("replay" in self._needs[name] for name in self._schedules))
        if self._budget is not None:
            self._budget.start()
        if batch is None:
            due = self._without_batch(due)
        accumulate = holds_micro_batches(batch) if micro_batches is None else micro_batches
        number = self._next_step
        guessed = micro_batches is None and type(batch) is list and bool(batch)
        measured = None
        if due:
            needs = frozenset[str]().union(*(self._needs[name] for name in due))
            measured = MeasuredStep(
                self._setup, due, needs, number, batch, accumulate, self._previous, self._kept, guessed=guessed
            )
        return Step(self, number, measured, (self._before_block(batch, measured), accumulate))

    def _before_block(self, batch: Any, measured: MeasuredStep | None) -> Any:
        """Return the batch, in a copy from before the block where this step replays it, or the next one may."""
        when = self._schedules.get("gradient_shift")
        replays = measured is not None and measured.replays
        if not replays and (when is None or not when.due(self._next_step + 1)):
            return batch
        started = self._clock()
        self._copy = copy_batch(batch)
        if self._budget is not None and measured is None:  # no part of training's own time
            self._budget.spend(self._clock() - started)
            self._budget.start()
        if measured is not None and replays:
            measured.batch = self._copy
        return self._copy

    def _without_batch(self, due: frozenset[str]) -> frozenset[str]:
        """Return what can be measured of a step without its batch; that there is none is told at the first step."""
        lacking = sorted(name for name in due if self._instruments[name].needs_batch(self._kept[name]))
        if not lacking:
            return due
        text = (
            f"step {self._next_step} runs the model on its batch again and expects the batch, got none; "
            "type recorder.step(batch)"
        )
        if self._strict or self._next_step == 0:
            raise UsageError(text)
        self._guard.warn_once("batch", f"{text}; {' and '.join(lacking)} left out at steps without one")
        return due - set(lacking)

    def close(self, *, state: str = "completed") -> None:
        """Write what is left, compact the run and mark its end; safe to call twice."""
        atexit.unregister(self.close)
        self._previous = None
        budget, self._budget = self._budget, None
        try:  # the rows must be written even where run.json cannot be
            if budget is not None and not self._buffer.is_foreign:  # a fork runs the exit handler too
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
        """Return the budget. Compile or load the kernels now, so that no step takes the time or is charged for it."""
        passes = frozenset(name for name, needs in self._needs.items() if "passes" in needs)
        made = Budget(budget, in_the_pass=passes, device=device)
        stats.backend(device.type)
        return made

    def _due(self) -> frozenset[str]:
        """Return the instruments of the next step. The budget is asked once per step, because it counts how often."""
        if self._upcoming is None:
            step = self._next_step
            due = frozenset(name for name, when in self._schedules.items() if when.due(step))
            self._upcoming = due if self._budget is None else self._budget.choose(step, due)
        return self._upcoming

    def arm_step(self, measured: MeasuredStep) -> bool:
        """Arm a measured step and return whether that worked; if not, the step goes unmeasured."""
        step = measured.number

        def arm() -> bool:
            measured.arm()
            return True

        if not self._guard.run(step, measured.due, arm):
            return False
        try:
            for name in sorted(measured.due & self._schedules.keys()):
                measured.attached[name] = ExitStack()
                self._guard.run(step, {name}, partial(self._attach, measured, name))
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
                self._guard.run(measured.number, {name}, partial(context.__exit__, kind, error, traceback))
        finally:
            self._guard.run(measured.number, (), partial(measured.disarm, kind, error, traceback))

    def abandon_step(self) -> None:
        """Drop a step whose block raised, and write what was recorded before it now."""
        self._buffer.drain()  # waits: the error may be about to end the process

    def finish_step(self, row: dict[str, Any], measured: MeasuredStep | None, batch: Batch) -> None:
        """Measure and record a step whose block ended without an error."""
        started = self._clock() if measured is not None or self._budget is not None else 0.0
        parts: dict[frozenset[str], float] = {}
        if measured is not None:
            parts = self._guard.run(measured.number, (), partial(self._measure_undisturbed, row, measured)) or {}
            row |= {"measuring_duration": self._clock() - started}
        # Before the row is added: that may flush and raise an earlier error, yet the step has been trained and counts.
        self._next_step += 1
        self._upcoming = None
        self._buffer.add_step(row)
        if self._budget is not None:
            due = None if measured is None else measured.due & self._schedules.keys()
            self._budget.stop(due, parts, recording=self._clock() - started)
        self._guard.run(row["step"], (), partial(self._prepare, batch))

    def _measure_undisturbed(self, row: dict[str, Any], measured: MeasuredStep) -> dict[frozenset[str], float]:
        with measured.undisturbed():
            return self._measure(row, measured)

    def _measure(self, row: dict[str, Any], measured: MeasuredStep) -> dict[frozenset[str], float]:
        """Buffer what is due, and return the seconds spent, by the instruments that they served."""
        step, started = row["step"], self._clock()
        if not self._layers_are_stored:
            layers = self._guard.run(step, (), lambda: measured.layers) or ()
            self._buffer.update_info(layers=layers_as_json(layers))
            self._layers_are_stored = bool(layers)
        parts = {frozenset[str](): self._clock() - started}
        rate = measured.learning_rate
        if rate is not None and not math.isfinite(rate):
            text = f"the learning rate is {rate} at step {step}: it is recorded as it is, and gives no step sizes"
            self._guard.warn_once("learning rate", text)
        row |= {"learning_rate": rate, **(self._guard.run(step, (), measured.norms) or {})}
        if self._setup.optimizers and "update" in measured.needs:
            self._guard.run(step, (), lambda: self._note_steps(measured))
        for served, measure in measurements(self._instruments, measured):
            if self._schedules.keys() & served:  # else an error at this very step has switched all of them off
                started = self._clock()
                for block in self._guard.run(step, served, measure) or ():
                    self._buffer.add(block, step=step)
                parts[served] = parts.get(served, 0.0) + self._clock() - started
        for note in measured.pass_notes:
            self._guard.warn_once(note, note)
        evaluates = any("loss" in self._needs[name] for name in measured.due & self._schedules.keys())
        if evaluates and not self._objective_checked and measured.unmoved is None:  # else no gradient was used
            self._objective_checked = True
            started = self._clock()
            self._guard.run(step, (), lambda: self._check_objective(measured))
            # Of no instrument: done once per run, it must not raise the price of those that are due now.
            parts[frozenset()] += self._clock() - started
        return parts

    def _note_steps(self, measured: MeasuredStep) -> None:
        """Say once of each kind what was odd about the optimizer's steps in a block."""
        note = steps_note(measured.parameters.steps, number=measured.number, unmoved=measured.unmoved)
        if note is not None:
            self._guard.warn_once(*note)

    def _check_objective(self, measured: MeasuredStep) -> None:
        """Is the loss that is measured the loss that is trained, and the same when it is evaluated again?"""
        for reading in self._setup.found.readings.values():
            self._buffer.update_info(batch=reading.why)
            if reading.fits is False and reading.accumulate:
                self._guard.warn(f"the batch was {reading.why}")
        explained = situation(measured.parameters.steps, self._given_optimizer)
        agreement = replace(measured.objective.check(measured.gradients, at=measured.before), situation=explained)
        self._buffer.update_info(objective=agreement.describe())
        if agreement.warning:
            self._guard.warn(agreement.warning)

    def _prepare(self, batch: Batch) -> None:
        """Decide what the next step measures; keep this batch if the noise floor of the shift needs a second one."""
        started = 0.0 if self._budget is None else self._clock()
        wanted = "gradient_shift" in self._due() and batch[0] is not None
        kept, self._copy = self._copy, None  # a budget may measure when no schedule said so: then a copy from now
        self._previous = (batch[0] if batch[0] is kept else copy_batch(batch[0]), batch[1]) if wanted else None
        if self._budget is not None:
            if self._budget.changed:
                self._buffer.update_info(budget=self._budget.describe())
            self._budget.spend(self._clock() - started)

    def _switch_off(self, names: Iterable[str]) -> None:
        for name in names:
            del self._schedules[name]
        if self._budget is not None:
            self._budget.forget(names)
        # After a block that raised, the same choice serves the next attempt: it must not name what is switched off.
        self._upcoming = None if self._upcoming is None else self._upcoming & self._schedules.keys()


def _state_after(kind: type[BaseException] | None) -> str:
    """Return how a run ended: Ctrl-C and `sys.exit` do not count as failures."""
    if kind is None:
        return "completed"
    return "failed" if issubclass(kind, Exception) else "interrupted"
