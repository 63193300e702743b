"""One measured step: what is armed before the user's block and what is evaluated after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from torch import Tensor

from ics import schema
from ics.landscape import (
    Objective,
    RandomState,
    Transition,
    attribution,
    curvature,
    default_etas,
    gradient_line,
    gradient_shift,
    make_transition,
)
from ics.probes import Probes, find_layers, select_layers
from ics.probes.hooks import before_optimizer_step
from ics.recording.compiled import forced_eager
from ics.recording.instruments import PROBES, needs_batch
from ics.recording.measuring.drift import Drift, Update
from ics.recording.measuring.setup import Setup, learning_rate
from ics.recording.measuring.step_parameters import StepParameters
from ics.records import Block, Layer

_OF_THE_PASSES = frozenset({"activations", "normalization"})


@dataclass
class MeasuredStep:
    """A step at which instruments are due.

    `arm` before the block, `disarm` after it whatever happened, then `measure` each instrument. Parameters, buffers
    and the random state are kept from before the block, so that every evaluation sees the step as training saw it.
    """

    setup: Setup
    due: frozenset[str]
    batch: Any
    accumulate: bool
    number: int
    drift: Drift
    parameters: StepParameters = field(init=False)
    buffers: dict[str, Tensor] = field(init=False)
    random_state: RandomState = field(init=False)
    probes: Probes | None = None
    learning_rate: float | None = None
    _armed: ExitStack = field(default_factory=ExitStack)
    _objective: Objective | None = None
    _transition: Transition | None = None

    def arm(self) -> None:
        """Keep W(t), buffers and random state, and attach what the due instruments need."""
        try:
            self._arm()
        except BaseException as error:
            self.disarm(type(error), error, error.__traceback__)
            raise

    def _arm(self) -> None:
        model, optimizer = self.setup.model, self.setup.optimizer
        self._armed.enter_context(forced_eager())
        self.learning_rate = learning_rate(optimizer)
        if self._asks_about_update:
            self.parameters = self._kept_parameters()
            if self._replays:
                self.buffers = {name: value.detach().clone() for name, value in model.named_buffers()}
                self.random_state = RandomState.capture(model)
            if optimizer is not None:
                handle = before_optimizer_step(optimizer, self._optimizer_steps)
                self._armed.callback(handle.remove)
        if self._looks_at_passes:
            self.probes = self._armed.enter_context(self.setup.probes(self.due))

    def disarm(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Detach everything, telling what was armed how the block ended; safe to call twice."""
        self._armed.__exit__(kind, error, traceback)

    def layers(self) -> tuple[Layer, ...]:
        """All layers in execution order: from one replayed pass where there can be one, else as the probes saw them."""
        if self._asks_about_update and self._can_replay:
            objective = self.objective()
            found = find_layers(self.setup.model, lambda: objective(self.before), grouping=self.setup.grouping)
        else:
            found = self.probes.layers() if self.probes else ()
        self.setup.seen.layers = bool(found)
        return found

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """The context of all evaluations: eager, and with the random state put back at its end."""
        if not self._replays:  # nothing is evaluated
            yield
            return
        now = RandomState.capture(self.setup.model)
        try:
            with forced_eager():
                yield
        finally:
            now.restore()

    def measurements(
        self, layers: tuple[Layer, ...], previous: tuple[Any, bool] | None
    ) -> Iterator[tuple[frozenset[str], Callable[[], list[Block]]]]:
        """Yield what is due: the instruments a measurement serves, and the measurement.

        `previous` is the batch before, and whether it is a list of micro-batches: the second batch of the floor.
        """
        if self.probes is not None:
            probes = self.probes
            yield self.due & PROBES, lambda: probes.blocks(layers)
        if "gradients" in self.due:
            yield frozenset({"gradients"}), lambda: [self.parameters.rows(layers)]
        if "gradient_shift" in self.due:
            yield frozenset({"gradient_shift"}), lambda: [self.gradient_shift(layers, previous)]
        if "attribution" in self.due:
            yield frozenset({"attribution"}), lambda: [self.attribution(layers, previous)]
        if "gradient_line" in self.due:
            yield frozenset({"gradient_line"}), lambda: [self.gradient_line(layers, previous)]
        if "curvature" in self.due:
            options = self.setup.options.get("curvature", {})
            yield frozenset({"curvature"}), lambda: [curvature(self.transition(previous), **options)]
        if "drift" in self.due:
            yield frozenset({"drift"}), lambda: [self.drift_rows()]

    def norms(self) -> dict[str, Tensor | float | None]:
        """Gradient and update norm of the whole step, and the regulariser that weight decay stands for.

        Not where only the passes are looked at: on small models they would cost more than all that was asked for.
        """
        if not self._asks_about_update:
            return {}
        return self.parameters.norms()

    def gradients(self) -> dict[str, Tensor | None]:
        """Gradients as the optimizer used them; as left in `.grad` where no optimizer was given."""
        return self.parameters.gradients()

    @property
    def before(self) -> dict[str, Tensor]:
        """W(t)."""
        return self.parameters.before

    def objective(self) -> Objective:
        """The loss of this batch as training saw it."""
        assert self.setup.loss_fn is not None, "checked when the instruments were chosen"
        if self._objective is None:
            self._objective = self._objective_of(self.batch, accumulate=self.accumulate)
        return self._objective

    def transition(self, previous: tuple[Any, bool] | None) -> Transition:
        """W(t) to W(t+1) on this batch; `previous` is (batch, accumulate) of the second batch for the floor."""
        if self._transition is None:
            second = None if previous is None else self._objective_of(previous[0], accumulate=previous[1])
            self._transition = make_transition(
                self.objective(),
                before=self.before,
                after=self.parameters.after(),
                second=second,
                learning_rate=self.learning_rate,
            )
        return self._transition

    def gradient_shift(self, layers: tuple[Layer, ...], previous: tuple[Any, bool] | None) -> Block:
        """Rows of `gradient_shift` for the selected layers."""
        selected = select_layers(layers, self.setup.selection)
        options = self.setup.options.get("gradient_shift", {})
        return gradient_shift(self.transition(previous), layers=layers, selected=selected, **options)

    def attribution(self, layers: tuple[Layer, ...], previous: tuple[Any, bool] | None) -> Block:
        """Rows of `attribution` for the selected layers."""
        selected = select_layers(layers, self.setup.selection)
        return attribution(self.transition(previous), layers=layers, selected=selected)

    def gradient_line(self, layers: tuple[Layer, ...], previous: tuple[Any, bool] | None) -> Block:
        """Rows of `gradient_line`; step sizes of 1/2 to 4 times the learning rate unless `etas` are given.

        With the option `layers`, besides the whole net those layers one at a time.
        """
        options = dict(self.setup.options.get("gradient_line", {}))
        etas = options.pop("etas", None) or default_etas(self.learning_rate)
        selection = options.pop("layers", None)
        alone = () if selection is None else select_layers(layers, selection)
        return gradient_line(self.transition(previous), etas=etas, layers=alone, **options)

    def drift_rows(self) -> Block:
        """Rows of `drift`: the probe batch before and after this update, and against the reference step."""
        update = Update(self.number, self.before, self.parameters.after(), self.buffers, self.random_state)
        return self.drift.measure(update, batch=self.batch, accumulate=self.accumulate)

    @property
    def _asks_about_update(self) -> bool:
        """Whether anything is due that compares parameters or evaluates the loss: the state before is kept for it."""
        return bool(self.due - _OF_THE_PASSES)

    @property
    def _replays(self) -> bool:
        """Whether a pass is run again, from the buffers and random state of before: by an instrument, or for layers."""
        return bool(
            needs_batch(self.due)
            or "drift" in self.due
            or (self._asks_about_update and self._can_replay and not self.setup.seen.layers)
        )

    @property
    def _can_replay(self) -> bool:
        return self.setup.loss_fn is not None and self.batch is not None

    @property
    def _looks_at_passes(self) -> bool:
        """Whether probes are needed; not for gradients of parameters alone, once the layers are known."""
        sites = self.setup.options.get("gradients", {}).get("sites", schema.SITES)
        return bool(self.due & (PROBES if sites or not self.setup.seen.layers else _OF_THE_PASSES))

    def _kept_parameters(self) -> StepParameters:
        options = self.setup.options.get("gradients", {})
        rows = {name: options.get(name, True) for name in ("histogram", "per_channel")}
        return StepParameters(
            self.setup.parameters,
            self.setup.optimizer,
            rows=rows if "gradients" in self.due else None,
            replays=self._replays,
        )

    def _objective_of(self, batch: Any, *, accumulate: bool) -> Objective:
        assert self.setup.loss_fn is not None
        return Objective(
            self.setup.model,
            self.setup.loss_fn,
            batch,
            accumulate=accumulate,
            random_state=self.random_state,
            buffers=self.buffers,
        )

    def _optimizer_steps(self) -> None:
        self.learning_rate = learning_rate(self.setup.optimizer)
        self.parameters.optimizer_steps()
