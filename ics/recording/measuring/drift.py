"""The instrument `drift`: one fixed batch before and after every measured update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ics import schema
from ics.errors import UsageError
from ics.landscape import RandomState, substituted
from ics.landscape.attributes import AttributeSnapshot
from ics.landscape.extra_parameters import ExtraParameters
from ics.landscape.random_state import replayed
from ics.landscape.substitution import attributes_kept, tensor_places
from ics.probes.drift import DISTANCES, SitesOfPass, checked_sites, drift_block, drift_rows, sites_of_pass
from ics.probes.structure.grouping import Grouping
from ics.recording.inputs import copy_batch, feed
from ics.recording.measuring.measured_step import MeasuredStep
from ics.records import Block

Forward = Callable[[nn.Module, Any], object]


class SameBatchDrift:
    """Measures the drift of a probe batch. Keeps the batch and the reference from step to step.

    At step t it makes two comparisons: the sites of the probe batch under W(t+1) with those under W(t) (reference
    "before_update"), and those under W(t) with those under W(n) (reference "step_<n>"). Here n is the first step
    measured at or after `reference_step`; at n itself there is nothing to compare. Every pass draws the random numbers
    of the first one, so that dropout masks are the same at all steps, and starts from the buffers of step t.

    Args:
        model: the model, in the mode in which it is trained.
        loss_fn: the recorder's loss; feeds the probe batch to the model if there is no `forward`.
        selection: layers, as for `Recorder`.
        grouping: which modules make up a layer, as for `Recorder`.
        probe_batch: the batch, copied now; by default the first measured batch (of micro-batches, the first one).
        forward: `forward(model, batch)`, to feed the batch in another way than through `loss_fn`, or, without a
            `loss_fn`, than as in `ics.activation_stats`.
        reference_step: see above.
        sites: which sites, of `ics.schema.SITES`.

    Cost: two forward passes without gradients per measured step. Per channel and site, a sorted sample of at most
    1024 values is kept for the reference.

    Raises:
        SelectionError: an unknown site.
        UsageError: a reference step that is not a step, or a `forward` that cannot be called.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss_fn: Forward | None,
        selection: Any = None,
        grouping: Grouping = "paper",
        probe_batch: Any = None,
        forward: Forward | None = None,
        reference_step: int | None = None,
        sites: Any = schema.SITES,
    ) -> None:
        if reference_step is not None and (type(reference_step) is not int or reference_step < 0):
            raise UsageError(f"drift expects a reference_step >= 0, got {reference_step!r}; type e.g. 0")
        if forward is not None and not callable(forward):
            raise UsageError(
                f"drift expects forward as a function, got {type(forward).__name__}; type lambda model, batch: ..."
            )
        self._model = model
        self._forward: Forward = forward or loss_fn or feed
        self._batch = copy_batch(probe_batch)
        self._from_step = reference_step or 0
        self._sites_wanted = checked_sites(sites)
        self._selection = selection
        self._grouping = grouping
        self._random_state: RandomState | None = None
        self._extra = ExtraParameters()
        self._attributes: AttributeSnapshot | None = None
        self._reference: tuple[int, SitesOfPass] | None = None

    @property
    def needs_batch(self) -> bool:
        """Whether the next measured batch becomes the probe batch."""
        return self._batch is None

    def measure(self, step: MeasuredStep, *, unmoved: str | None = None) -> Block:
        """Return the rows of one step; its batch becomes the probe batch if there is none yet."""
        if self._batch is None:
            self._batch = copy_batch(step.first_batch)
        if self._random_state is None:
            self._random_state = step.random_state
        self._attributes, self._extra = step.attributes, step.setup.extra
        before = self._sites(step.before, step.buffers, halves=True)
        after = self._sites(step.after, step.buffers, halves=False)
        self._attributes = None
        rows = drift_rows(after, before, reference="before_update", floor=before)
        if unmoved is not None:  # a drift of 0 would say that an update changed nothing
            rows = [{**row, **dict.fromkeys(DISTANCES), "null_reason": unmoved} for row in rows]
        if self._reference is not None:
            number, kept = self._reference
            rows += drift_rows(before, kept, reference=f"step_{number}", floor=before)
        elif step.number >= self._from_step:
            self._reference = step.number, before.without_halves()
        return drift_block(rows)

    def _sites(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], *, halves: bool) -> SitesOfPass:
        run = partial(self._forward, self._model, copy_batch(self._batch))  # a forward may write into its batch
        with self._standing_at(parameters, buffers):
            return sites_of_pass(
                self._model,
                run,
                halves=halves,
                sites=self._sites_wanted,
                layers=self._selection,
                grouping=self._grouping,
            )

    @contextmanager
    def _standing_at(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Iterator[None]:
        """Give the model copies that it may write to: an embedding with max_norm does so, and BatchNorm."""
        assert self._random_state is not None
        places = {**tensor_places(self._model), **self._extra.places}
        leaves = {name: nn.Parameter(value.detach().clone(), False) for name, value in parameters.items()}
        clones = {name: value.clone() for name, value in buffers.items()}
        placed = {name: value for name, value in (leaves | clones).items() if name not in self._extra.bare}
        with (
            replayed(self._random_state, self._model),
            attributes_kept(self._model, modules=(*self._model.modules(), *self._extra.modules)),
            substituted(self._model, placed, places=places),
            self._extra.exchanged(leaves),
            torch.no_grad(),
        ):
            if self._attributes is not None:
                self._attributes.put_back()
            yield
