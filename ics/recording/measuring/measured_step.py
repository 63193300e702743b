"""One measured step: what is kept before the user's block, and what instruments can ask for after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor, nn

from ics.landscape import Objective, RandomState, Transition, make_transition
from ics.probes import Probes, find_layers, select_layers
from ics.probes.hooks import before_optimizer_step
from ics.recording.inputs import forced_eager
from ics.recording.measuring.setup import Setup
from ics.recording.measuring.step_parameters import StepParameters, learning_rate
from ics.records import Block, Layer

Kept = TypeVar("Kept")
Batch = tuple[Any, bool]
"""A batch as it was handed in, and whether it is a list of micro-batches."""


@dataclass
class MeasuredStep:
    """A step at which instruments are due.

    The recorder calls `arm` before the user's block and `disarm` after it, whatever happened. Instruments then read
    what they need from the attributes below; what several of them need is made once. Parameters, buffers, and random
    state are kept from before the block, so that every evaluation sees the step as training saw it.

    Attributes:
        setup: what the recorder was told.
        due: names of the instruments that are due.
        needs: what they need; see `ics.Instrument`.
        number: optimizer steps done before this one, from 0.
        batch: the batch as it was handed to `Recorder.step`.
        accumulate: whether it is a list of micro-batches.
        previous: the batch of the step before, the second batch of the noise floor; None if it was not kept.
        kept: by instrument, what it keeps from step to step.
        notes: sentences for the run, said once: an instrument may add its own.
        learning_rate: of the first parameter group as the optimizer stepped; None without an optimizer.
    """

    setup: Setup
    due: frozenset[str]
    needs: frozenset[str]
    number: int
    batch: Any
    accumulate: bool
    previous: Batch | None
    kept: Mapping[str, Any]
    learning_rate: float | None = None
    notes: list[str] = field(default_factory=list)
    attached: dict[str, ExitStack] = field(default_factory=dict)
    _armed: ExitStack = field(default_factory=ExitStack)
    _probes: Probes | None = None
    _parameters: StepParameters | None = None
    _buffers: dict[str, Tensor] | None = None
    _random_state: RandomState | None = None

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
        if "update" in self.needs:
            self._parameters = self._keep_parameters()
            if self._replays:
                self._buffers = {name: value.detach().clone() for name, value in model.named_buffers()}
                self._random_state = RandomState.capture(model)
            if optimizer is not None:
                handle = before_optimizer_step(optimizer, self._optimizer_steps)
                self._armed.callback(handle.remove)
        if self._looks_at_passes:
            self._probes = self._armed.enter_context(self.setup.probes(self.due))

    def disarm(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Detach everything, telling what was armed how the block ended; safe to call twice."""
        self._armed.__exit__(kind, error, traceback)

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

    @property
    def model(self) -> nn.Module:
        """The model, at W(t+1) after the block."""
        return self.setup.model

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers in execution order. Needs "layers".

        Found once, by a replayed pass where there can be one, else by the probes.
        """
        found = self.setup.found
        if not found.layers:
            if self._can_replay:
                objective = self.objective
                found.layers = find_layers(self.model, lambda: objective(self.before), grouping=self.setup.grouping)
            elif self._probes is not None:
                found.layers = self._probes.layers()
        return found.layers

    @property
    def selected(self) -> tuple[Layer, ...]:
        """The layers that the user asked for, in execution order."""
        return select_layers(self.layers, self.setup.selection)

    @cached_property
    def pass_rows(self) -> list[Block]:
        """Rows of the tables that are measured in training's own passes, all of them in one look."""
        return [] if self._probes is None else self._probes.blocks(self.layers)

    @property
    def pass_notes(self) -> list[str]:
        """Sentences on passes that were seen in the block and do not count."""
        return self.notes if self._probes is None else [*self._probes.notes, *self.notes]

    @property
    def parameters(self) -> StepParameters:
        """The parameters around the optimizer's step. Needs "update"."""
        return _kept(self._parameters, "update")

    @property
    def before(self) -> dict[str, Tensor]:
        """W(t). Needs "update"."""
        return self.parameters.before

    @property
    def after(self) -> dict[str, Tensor]:
        """W(t+1). Needs "update"."""
        return self.parameters.after()

    @property
    def gradients(self) -> dict[str, Tensor | None]:
        """Gradients as the optimizer used them; as left in `.grad` where no optimizer was given. Needs "update"."""
        return self.parameters.gradients()

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The buffers as they were before the block. Needs "replay"."""
        return _kept(self._buffers, "replay")

    @property
    def random_state(self) -> RandomState:
        """The random state as it was before the block. Needs "replay"."""
        return _kept(self._random_state, "replay")

    @cached_property
    def objective(self) -> Objective:
        """The loss of this batch as training saw it, a function of the parameters. Needs "loss"."""
        return self._objective_of(self.batch, accumulate=self.accumulate)

    @cached_property
    def transition(self) -> Transition:
        """W(t) to W(t+1) on this batch, with the batch before for the noise floor. Needs "loss"."""
        second = None if self.previous is None else self._objective_of(self.previous[0], accumulate=self.previous[1])
        return make_transition(
            self.objective,
            before=self.before,
            after=self.after,
            second=second,
            learning_rate=self.learning_rate,
        )

    def norms(self) -> dict[str, Tensor | float | None]:
        """Gradient and update norm of the whole step, and the regulariser that weight decay stands for.

        Not where only the passes are looked at: on small models they would cost more than all that was asked for.
        """
        return {} if self._parameters is None else self._parameters.norms()

    @property
    def _replays(self) -> bool:
        """Whether a pass is run again, from the buffers and random state of before: by an instrument, or for layers."""
        return "replay" in self.needs or (self._can_replay and not self.setup.found.layers)

    @property
    def _can_replay(self) -> bool:
        return "update" in self.needs and self.setup.loss_fn is not None and self.batch is not None

    @property
    def _looks_at_passes(self) -> bool:
        """Whether probes are attached; not for gradients of parameters alone, once the layers are known."""
        of_gradients = "gradients" in self.due and bool(self.setup.in_the_pass["gradients"]["sites"])
        unknown = "layers" in self.needs and not self.setup.found.layers and not self._can_replay
        return of_gradients or unknown or bool(self.due & {"activations", "normalization"})

    def _keep_parameters(self) -> StepParameters:
        options = self.setup.in_the_pass["gradients"]
        rows = {name: options[name] for name in ("histogram", "per_channel")}
        return StepParameters(
            self.setup.parameters,
            self.setup.optimizer,
            rows=rows if "gradients" in self.due else None,
            replays=self._replays,
        )

    def _objective_of(self, batch: Any, *, accumulate: bool) -> Objective:
        assert self.setup.loss_fn is not None, "checked when the instruments were chosen"
        return Objective(
            self.model,
            self.setup.loss_fn,
            batch,
            accumulate=accumulate,
            random_state=self.random_state,
            buffers=self.buffers,
        )

    def _optimizer_steps(self) -> None:
        self.learning_rate = learning_rate(self.setup.optimizer)
        self.parameters.optimizer_steps()


def _kept(value: Kept | None, need: str) -> Kept:
    if value is None:
        raise RuntimeError(
            f'this is kept for instruments that need "{need}"; give yours needs = frozenset({{"{need}"}})'
        )
    return value
