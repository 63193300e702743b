"""One measured step: what is kept before the user's block, and what instruments can read after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ics.landscape import Objective, RandomState, Transition, make_transition
from ics.landscape.attributes import AttributeSnapshot
from ics.probes import Probes, find_layers, select_layers
from ics.probes.hooks import before_optimizer_step
from ics.recording.inputs import forced_eager
from ics.recording.measuring.batch_reading import choose_reading
from ics.recording.measuring.setup import Setup
from ics.recording.measuring.step_parameters import StepParameters
from ics.recording.optimizers import NOT_STEPPED, learning_rate
from ics.records import Block, Layer

Kept = TypeVar("Kept")
Batch = tuple[Any, bool]
"""A batch as it was handed in, and whether it is a list of micro-batches."""


@dataclass
class MeasuredStep:
    """A step at which instruments are due.

    The recorder calls `arm` before the user's block and `disarm` after it, whatever happened. Instruments then read
    what they need from the attributes below; values that several of them share are computed once. Parameters, buffers
    and random state are kept from before the block, so that every evaluation sees the step as training saw it.

    Attributes:
        setup: what the recorder was told.
        due: names of the instruments that are due.
        needs: what they need; see `ics.Instrument`.
        number: optimizer steps done before this one, from 0.
        batch: the batch as it was handed to `Recorder.step`; a copy from before the block where anything replays.
        accumulate: whether it is a list of micro-batches.
        guessed: whether that was seen from a list, not said: then it is held against the gradient training used.
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
    guessed: bool = False
    learning_rate: float | None = None
    notes: list[str] = field(default_factory=list)
    attached: dict[str, ExitStack] = field(default_factory=dict)
    _armed: ExitStack = field(default_factory=ExitStack)
    _probes: Probes | None = None
    _parameters: StepParameters | None = None
    _buffers: dict[str, Tensor] | None = None
    _attributes: AttributeSnapshot | None = None
    _random_state: RandomState | None = None

    def arm(self) -> None:
        """Keep W(t), buffers and random state, and attach what the due instruments need."""
        try:
            self._arm()
        except BaseException as error:  # Ctrl-C too: no hook may stay on a model whose step is not measured
            self.disarm(type(error), error, error.__traceback__)
            raise

    def _arm(self) -> None:
        optimizers = self.setup.optimizers
        self._armed.enter_context(forced_eager())
        self.learning_rate = learning_rate(optimizers)
        if "update" in self.needs:
            self._parameters = self._keep_parameters()
            if self.replays:
                self._keep_state()
            for optimizer in optimizers:
                handle = before_optimizer_step(optimizer, partial(self._optimizer_steps, optimizer))
                self._armed.callback(handle.remove)
        if self._looks_at_passes:
            self._probes = self._armed.enter_context(self.setup.probes(self.due))

    def disarm(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Detach everything, and tell what was armed how the block ended; safe to call twice."""
        self._armed.__exit__(kind, error, traceback)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """The context of all evaluations: eager, and with the random state put back at its end."""
        if not self.replays:  # nothing is evaluated
            yield
            return
        # Evaluations rewind the generators to before the block; training goes on from where it left them.
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

        Found once: by a replayed pass if there can be one, else by the probes.
        """
        found = self.setup.found
        if not found.layers:
            if self._can_replay:
                found.layers = find_layers(self.model, self._run_forward, grouping=self.setup.grouping)
            elif self._probes is not None:
                found.layers = self._probes.layers()
        return found.layers

    @property
    def selected(self) -> tuple[Layer, ...]:
        """The layers that the user asked for, in execution order."""
        return select_layers(self.layers, self.setup.selection)

    @cached_property
    def pass_rows(self) -> list[Block]:
        """Rows of the tables that are measured in training's own passes, computed together."""
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
    def attributes(self) -> AttributeSnapshot:
        """The plain attributes of modules as they were before the block. Needs "replay"."""
        kept = _kept(self._attributes, "replay")
        kept.note_changes()
        return kept

    @property
    def random_state(self) -> RandomState:
        """The random state as it was before the block. Needs "replay"."""
        return _kept(self._random_state, "replay")

    @cached_property
    def objective(self) -> Objective:
        """The loss of this batch as training saw it, a function of the parameters. Needs "loss"."""
        found = self.setup.found.readings.get(self.accumulate)
        if self.guessed and (found is None or found.fits is None):
            self.setup.found.readings[self.accumulate] = choose_reading(
                lambda accumulate: self._objective_of(self.batch, accumulate=accumulate),
                self.accumulate,
                len(self.batch),
                before=self.before,
                used=self.gradients,
            )
        return self._objective_of(self.batch, accumulate=self._read(self.accumulate))

    @property
    def first_batch(self) -> Any:
        """The batch, or the first of its micro-batches."""
        if self.guessed and self._can_replay:
            return self.objective.batches[0]
        return self.batch[0] if self.accumulate else self.batch

    @cached_property
    def transition(self) -> Transition:
        """W(t) to W(t+1) on this batch, with the batch before for the noise floor. Needs "loss"."""
        objective = self.objective  # first: it finds out what a list is
        second = None
        if self.previous is not None:
            second = self._objective_of(self.previous[0], accumulate=self._read(self.previous[1]))
        return make_transition(
            objective,
            before=self.before,
            after=self.after,
            second=second,
            learning_rate=self.learning_rate,
        )

    @cached_property
    def unmoved(self) -> str | None:
        """Why there is no update to speak of; None if the parameters moved. Needs "update".

        Parameters are looked at only where no optimizer that was given has stepped.
        """
        if self.setup.optimizers and self.parameters.steps.stepped:
            return None
        if self.parameters.moved():
            return None
        return NOT_STEPPED if self.setup.optimizers else "no parameter changed in the block"

    def norms(self) -> dict[str, Tensor | float | None]:
        """Gradient and update norm of the whole step, and the regulariser that weight decay stands for.

        Empty if only the passes are measured: on small models the norms would cost more than everything asked for.
        """
        return {} if self._parameters is None else self._parameters.norms()

    def _run_forward(self) -> None:
        """Run the passes of the batch again, and none backward: not every model can be differentiated once more."""
        with self.objective.standing_at(self.objective.leaves(self.before)):
            for batch in self.objective.batches:
                self.objective.loss(batch)

    @property
    def replays(self) -> bool:
        """Whether a pass is run again, from the buffers and random state of before: by an instrument, or for layers."""
        return "replay" in self.needs or (self._can_replay and not self.setup.found.layers)

    @property
    def _can_replay(self) -> bool:
        given = self.setup.loss_fn is not None and self.batch is not None
        return "update" in self.needs and given and not self.setup.is_sharded

    @property
    def _looks_at_passes(self) -> bool:
        """Whether probes are attached. Gradients of parameters alone need none once the layers are known."""
        of_gradients = "gradients" in self.due and bool(self.setup.in_the_pass["gradients"]["sites"])
        unknown = "layers" in self.needs and not self.setup.found.layers and not self._can_replay
        return of_gradients or unknown or bool(self.due & {"activations", "normalization"})

    def _keep_state(self) -> None:
        model, extra = self.setup.model, self.setup.extra
        present = {**dict(model.named_buffers()), **extra.buffers()}
        self._buffers = {name: value.detach().clone() for name, value in present.items()}
        self._attributes = AttributeSnapshot([*model.modules(), *extra.modules])
        self._random_state = RandomState.capture(model)

    def _read(self, accumulate: bool) -> bool:
        """Return whether a list is micro-batches: what such a list turned out to be, unless the user said it."""
        found = self.setup.found.readings.get(accumulate) if self.guessed else None
        return accumulate if found is None else found.accumulate

    def _keep_parameters(self) -> StepParameters:
        options = self.setup.in_the_pass["gradients"]
        rows = {name: options[name] for name in ("histogram", "per_channel")}
        return StepParameters(
            self.setup.parameters,
            self.setup.optimizers,
            rows=rows if "gradients" in self.due else None,
            replays=self.replays,
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
            attributes=self.attributes,
            extra=self.setup.extra,
        )

    def _optimizer_steps(self, optimizer: torch.optim.Optimizer) -> None:
        # Again, as the loop may have set it within the block (warm-up before `optimizer.step()`).
        if optimizer is self.setup.optimizers[0]:
            self.learning_rate = learning_rate(self.setup.optimizers)
        self.parameters.optimizer_steps(optimizer)


def _kept(value: Kept | None, need: str) -> Kept:
    if value is None:
        raise RuntimeError(
            f'this is kept for instruments that need "{need}"; give yours needs = frozenset({{"{need}"}})'
        )
    return value
