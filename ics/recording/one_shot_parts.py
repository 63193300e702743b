"""What the one-shot measurements share: from a model, its loss and a batch to a transition, from blocks to a frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from torch import Tensor, nn

from ics import landscape, schema
from ics.landscape import Objective, RandomState, make_transition
from ics.recording.batches import holds_micro_batches
from ics.recording.transfer import to_host
from ics.records import Block

LossFunction = Callable[[nn.Module, Any], Tensor]


def objective_of(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    micro_batches: bool | None = None,
    random_state: RandomState | None = None,
) -> Objective:
    """Return the loss of a batch; whether it is a list of micro-batches is seen from it unless it is said."""
    accumulate = holds_micro_batches(batch) if micro_batches is None else micro_batches
    return Objective(model, loss_fn, batch, accumulate=accumulate, random_state=random_state)


def transition_to(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    after: Mapping[str, Tensor],
    second_batch: Any,
    micro_batches: bool | None,
    learning_rate: float | None = None,
) -> landscape.Transition:
    """Return the transition from the model's present parameters to those `after` the update."""
    accumulate = holds_micro_batches(batch) if micro_batches is None else micro_batches
    state = RandomState.capture(model)
    objective = objective_of(model, loss_fn, batch, micro_batches=accumulate, random_state=state)
    second = (
        None
        if second_batch is None
        else objective_of(model, loss_fn, second_batch, micro_batches=accumulate, random_state=state)
    )
    before = {name: value.detach() for name, value in model.named_parameters()}
    return make_transition(
        objective,
        before=before,
        after=before | {name: value.detach() for name, value in after.items()},
        second=second,
        learning_rate=learning_rate,
    )


def as_frame(*blocks: Block) -> pd.DataFrame:
    """Return the rows of one table as a frame, its columns in the schema's order."""
    frames = [pd.DataFrame(columns) for _, columns in to_host(blocks)]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    order = [name for name in schema.table_named(blocks[0].table).column_names if name in frame.columns]
    return frame[order]
