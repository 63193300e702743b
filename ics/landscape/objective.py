"""The loss of one batch as a pure function of the parameters: the only way to evaluate elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ics.errors import LossError, UsageError, unknown_name
from ics.landscape.agreement import Agreement, compare
from ics.landscape.attributes import AttributeSnapshot
from ics.landscape.copies import copied, same
from ics.landscape.extra_parameters import ExtraParameters
from ics.landscape.random_state import RandomState
from ics.landscape.substitution import attributes_kept, substituted, tensor_places

_Key = TypeVar("_Key")
LossFunction = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Loss and gradients at one point.

    Attributes:
        loss: 0-dimensional, detached, on the model's device.
        gradients: gradient by parameter name; None where the loss does not depend on the parameter at all, which
            is not the same as a gradient of zeros.
    """

    loss: Tensor
    gradients: dict[str, Tensor | None]


class Objective:
    """`parameters -> (loss, gradients)` of one batch, as training saw it, as often as wanted.

    Every evaluation draws the same random numbers, starts from the same buffers (in clones, so that BatchNorm's
    running statistics and num_batches_tracked stand still) and runs in the mode the model is in. It never touches
    `.grad`, parameters, hooks, buffers or the random state.

    Args:
        model: the model; its own parameters are used nowhere, only their names and places.
        loss_fn: `loss_fn(model, batch)` returning the training loss as one number.
        batch: what `loss_fn` takes; with `accumulate` the list of micro-batches.
        accumulate: sum loss and gradients over the micro-batches in `batch`, as repeated `loss.backward()` does;
            random numbers and buffers go on from one micro-batch to the next.
        random_state: the state of the generators before training's forward pass; default now.
        buffers: the buffers before training's forward pass; default clones of the present ones.
        attributes: the modules' plain attributes before training's forward pass; default as they are.
        extra: what the loss has parameters of beside the model, a criterion say.

    Raises:
        UsageError: a model without parameters, or `accumulate` without a list of micro-batches.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> objective = Objective(model, lambda model, x: model(x).sum(), torch.ones(3, 2))
        >>> objective({"weight": torch.tensor([[1.0, 2.0]])})
        Evaluation(loss=tensor(9.), gradients={'weight': tensor([[3., 3.]])})
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batch: Any,
        *,
        accumulate: bool = False,
        random_state: RandomState | None = None,
        buffers: Mapping[str, Tensor] | None = None,
        attributes: AttributeSnapshot | None = None,
        extra: ExtraParameters | None = None,
    ) -> None:
        if next(model.parameters(), None) is None:
            raise UsageError(
                f"an objective expects a model with parameters, got {type(model).__name__} without any; "
                "pass the model that is trained"
            )
        if accumulate and not (isinstance(batch, list | tuple) and batch):
            raise UsageError(
                f"accumulate=True expects a list of micro-batches, got {_describe(batch)}; type [batch] for one"
            )
        self.model = model
        self.accumulate = accumulate
        self.batches: tuple[Any, ...] = tuple(batch) if accumulate else (batch,)
        self.extra = extra or ExtraParameters()
        self._named = {**dict(model.named_parameters()), **self.extra.parameters}
        self.trainable = tuple(name for name, value in self._named.items() if value.requires_grad)
        self._loss_fn = loss_fn
        self._modules = (*model.modules(), *self.extra.modules)
        self._places = {**tensor_places(model), **self.extra.places}
        self._attributes = attributes or AttributeSnapshot(self._modules)
        if attributes is not None:
            attributes.note_changes()
        self._written: dict[int, bool] = {}  # by (micro-)batch, whether the loss writes into it
        self._random_state = random_state or RandomState.capture(model)
        present = {**dict(model.named_buffers()), **self.extra.buffers()} if buffers is None else buffers
        self._buffers = {name: value.detach().clone() for name, value in present.items()}
        self._evaluates_often = False
        self.writes_parameters = True  # until an evaluation has shown that the model does not

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The present parameter values, detached but not copied."""
        named = {**dict(self.model.named_parameters()), **self.extra.parameters}
        return {name: value.detach() for name, value in named.items()}

    def __call__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        wanted: Sequence[str] | None = None,
        requiring: Sequence[str] | None = None,
        around: Callable[[int], AbstractContextManager[object]] = nullcontext,
        inspect: Callable[[Tensor, Collection[Tensor]], None] | None = None,
    ) -> Evaluation:
        """Evaluate at `parameters`.

        Args:
            parameters: a value for every parameter, by its name in `named_parameters`; none of them is written to.
            wanted: names of the parameters whose gradient is wanted; default all that are trained.
            requiring: names of the parameters that require a gradient in the pass; default all that are trained, as
                modules choose other kernels where nothing does.
            around: context to put around the forward pass of each micro-batch, made from its number.
            inspect: called with the loss of each micro-batch, attached to its graph, and the leaves of this evaluation.

        Returns:
            The loss and d loss / d parameter. A loss that is NaN or infinite is returned as it is.

        Cost: one forward-backward pass.

        Raises:
            LossError: `loss_fn` does not return one number, or it depends on no trained parameter.
            SelectionError: a name that is no parameter.
            UsageError: a parameter without a value, or a model with reentrant activation checkpointing.
        """
        names = self.trainable if wanted is None else tuple(wanted)
        self._check_names([*parameters, *names], given=parameters)
        # All trained parameters require a gradient even where few are wanted: which kernels are chosen, and with them
        # the last bits, depends on it.
        leaves = self.leaves(parameters, (*self.trainable, *names) if requiring is None else requiring)
        loss, gradients = self._evaluate(leaves, names, around, inspect)
        if wanted is None and all(gradient is None for gradient in gradients.values()):
            raise LossError(
                "loss_fn must return a loss that depends on the model's trained parameters, got one that depends on "
                "none; compute it from model(...) as passed to loss_fn, without torch.no_grad() or .detach()"
            )
        return Evaluation(loss, gradients)

    def check(self, gradients: Mapping[str, Tensor | None], *, at: Mapping[str, Tensor] | None = None) -> Agreement:
        """Compare this objective's gradient with the one that training used, and with itself evaluated again.

        Args:
            gradients: gradient by parameter name as the optimizer used it.
            at: the parameters at which training computed it; default the model's present ones.

        Cost: two forward-backward passes.
        """
        where = self.parameters if at is None else at
        return compare(self(where).gradients, self(where).gradients, gradients)

    @contextmanager
    def standing_at(self, leaves: Mapping[str, Tensor]) -> Iterator[None]:
        """Let the model hold `leaves` and fresh clones of the buffers, with the random numbers of the training pass."""
        buffers = {name: value.clone() for name, value in self._buffers.items()}
        drawn = None if self._evaluates_often else self._random_state.now()
        self._random_state.restore()
        try:
            # `enable_grad`: the caller may be inside `torch.no_grad()`, in an evaluation loop for example.
            with (
                attributes_kept(self.model, modules=self._modules),
                substituted(self.model, self._placed({**leaves, **buffers}), places=self._places),
                self.extra.exchanged(leaves),
                torch.enable_grad(),
            ):
                self._attributes.put_back()
                yield
        finally:
            if not self._attributes.noted:  # the first evaluation shows what the model writes into
                self._attributes.undo()
            if drawn is not None:
                drawn.restore()

    @contextmanager
    def evaluating_often(self) -> Iterator[None]:
        """Put the generators back once, at the end, instead of after each of many evaluations."""
        drawn, before = self._random_state.now(), self._evaluates_often
        self._evaluates_often = True
        try:
            yield
        finally:
            self._evaluates_often = before
            drawn.restore()

    def loss(self, batch: Any) -> Tensor:
        """Return the loss of one (micro-)batch at whatever the model holds, still attached to its graph.

        A loss that writes into its batch, or takes something out of it, gets a copy each time; which losses do is seen
        the first time.
        """
        written = self._written.get(id(batch))
        handed = batch if written is False else copied(batch)
        loss = self._loss_fn(self.model, handed)
        if written is None and any(batch is each for each in self.batches):
            self._written[id(batch)] = not same(handed, batch)
        if not (isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point()):
            raise LossError(
                f"loss_fn must return one number as a tensor, got {_describe(loss)}; return the training loss itself, "
                "e.g. loss.mean() or output.loss"
            )
        return loss.reshape(())

    def leaves(
        self, parameters: Mapping[str, Tensor], requiring: Sequence[str] | None = None
    ) -> dict[str, nn.Parameter]:
        """Return fresh leaves with the values of `parameters`, by default requiring a gradient if they are trained.

        A model that writes into its parameters (an embedding with max_norm) gets copies; which models do is seen at
        the first evaluation, and the others are spared the copy afterwards.
        """
        chosen = frozenset(self.trainable if requiring is None else requiring)
        return {
            name: nn.Parameter(value.detach().clone() if self.writes_parameters else value.detach(), name in chosen)
            for name, value in parameters.items()
        }

    def _evaluate(
        self,
        leaves: Mapping[str, Tensor],
        names: Sequence[str],
        around: Callable[[int], AbstractContextManager[object]],
        inspect: Callable[[Tensor, Collection[Tensor]], None] | None,
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        versions = [leaf._version for leaf in leaves.values()]
        total: Tensor | None = None
        gradients: dict[str, Tensor | None] = dict.fromkeys(names)
        with self.standing_at(leaves):
            for number, batch in enumerate(self.batches):
                with around(number):
                    loss = self.loss(batch)
                if inspect is not None:
                    inspect(loss, leaves.values())
                add_gradients(gradients, loss, leaves)
                total = loss.detach() if total is None else total + loss.detach()
        self.writes_parameters = versions != [leaf._version for leaf in leaves.values()]
        assert total is not None
        return total, gradients

    def _placed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the values that sit in a module; the others are exchanged where they are used."""
        return {name: value for name, value in values.items() if name not in self.extra.bare}

    def _check_names(self, names: Sequence[str], *, given: Mapping[str, Tensor]) -> None:
        for name in names:
            if name not in self._named:
                raise unknown_name("parameter", name, self._named)
        missing = [name for name in self._named if name not in given]
        if missing:
            raise UsageError(
                f"an objective expects a value for every parameter, got none for {', '.join(missing)}; "
                "type {**objective.parameters, ...}"
            )


def add_gradients(gradients: dict[_Key, Tensor | None], loss: Tensor, leaves: Mapping[_Key, Tensor]) -> None:
    """Add d loss / d leaf to each of `gradients`, in the order in which repeated `loss.backward()` adds to `.grad`."""
    if not (gradients and loss.requires_grad):
        return
    found = gradients_of(loss, [leaves[name] for name in gradients])
    for name, gradient in zip(gradients, found, strict=True):
        if gradient is not None:
            dense = gradient.to_dense() if gradient.is_sparse else gradient  # embeddings with sparse=True
            before = gradients[name]
            gradients[name] = dense if before is None else before + dense


def gradients_of(loss: Tensor, leaves: Sequence[Tensor], *, create_graph: bool = False) -> tuple[Tensor | None, ...]:
    """Return d loss / d leaf, None where there is none.

    Raises:
        UsageError: the model uses reentrant activation checkpointing, which torch cannot differentiate so.
    """
    try:
        return torch.autograd.grad(loss, leaves, allow_unused=True, create_graph=create_graph)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise UsageError(
            "gradients of chosen parameters are expected, got a model with reentrant activation checkpointing, which "
            "cannot give them; type torch.utils.checkpoint.checkpoint(..., use_reentrant=False) in the model"
        ) from error


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"
