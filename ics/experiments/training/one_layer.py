"""One layer per step: an optimizer's step moves, or changes the sign of weights of, a single layer.

For each layer the components of its weights that the step would carry across zero are counted: those w with
sign(w~) = -sign(w), w~ the value that the optimizer proposes. (A component that comes from 0, or goes to 0, changes no
sign.) The layer with most of them is chosen; among equals, the one that was chosen the longest ago, and at first the
earliest in the order of execution. Then, by mode,

    "update"  the chosen layer is updated; every other parameter of the net keeps its value, bit by bit
    "sign"    every layer is updated, but in the layers that are not chosen the components that would change sign keep
              their value; they are not set to 0, from where they could cross in the next step

Weights are a layer's parameters called `weight`: matrices, kernels, and gamma of its normalisation. Biases and beta
multiply nothing, so their signs do not matter; in the mode "sign" they always move. The optimizer's own state
(momentum, second moments) is that of the steps it proposed, taken or not.

The table `steps` gets `chosen_layer` (number in the order of execution), `sign_changes_proposed` and
`sign_changes_made` (components of all weights together).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ics.errors import UsageError
from ics.experiments.data.examples import Batch
from ics.experiments.nets.layers import NetLayer

Mode = Literal["update", "sign"]

_UNCHOSEN_BITS = 32


class OneLayerPerStep:
    """Lets each step of an optimizer change one layer only.

    It hooks into the optimizer, which is used as usual. Nothing waits for the device.

    Args:
        optimizer: changes parameters of the layers and no others.
        layers: in the order of execution.
        mode: "update" or "sign", as the module says.

    Cost of a step: a copy of all parameters and two reads of them.

    Example:
        >>> from ics.experiments.nets.layers import layers_in_order
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> alone = OneLayerPerStep(optimizer, layers=layers_in_order(model, torch.zeros(1, 3)), mode="update")
        >>> model(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
        >>> sorted(alone.columns())
        ['chosen_layer', 'sign_changes_made', 'sign_changes_proposed']
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, layers: Sequence[NetLayer], mode: Mode) -> None:
        self._mode = mode
        self._parameters = [list(layer.parameters.values()) for layer in layers]
        self._are_weights = [[_is_weight(name) for name in layer.parameters] for layer in layers]
        device = self._parameters[0][0].device
        self._unchosen = torch.arange(len(layers), 0, -1, device=device)  # steps; the earliest layer comes first
        self._before: list[list[Tensor]] = []
        self._columns: dict[str, Tensor] = {}
        optimizer.register_step_pre_hook(lambda *_: self._keep())
        optimizer.register_step_post_hook(lambda *_: self._hold())

    def columns(self) -> dict[str, Tensor]:
        """Return what the last step did, as columns that this module names, on the device."""
        if not self._columns:
            raise UsageError("OneLayerPerStep tells of a step of its optimizer, got none; type optimizer.step() first")
        return self._columns

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return `columns()`, so that an instance can be called after each step."""
        return self.columns()

    def _keep(self) -> None:
        self._before = [[parameter.detach().clone() for parameter in own] for own in self._parameters]

    @torch.no_grad()
    def _hold(self) -> None:
        changes = self._sign_changes()
        counts = torch.stack([_number_of(own) for own in changes])
        chosen = self._choose(counts)
        for number, (own, before, changed) in enumerate(zip(self._parameters, self._before, changes, strict=True)):
            for parameter, value, crossing in zip(own, before, changed, strict=True):
                # A tensor as condition, so that nothing waits to learn which layer it is.
                held = (chosen != number) & crossing if self._mode == "sign" else (chosen != number)
                parameter.copy_(torch.where(held, value, parameter))
        self._before = []
        self._columns = {
            "chosen_layer": chosen,
            "sign_changes_proposed": counts.sum(),
            "sign_changes_made": counts.index_select(0, chosen.reshape(1)),  # counts[chosen] would wait for the device
        }

    def _sign_changes(self) -> list[list[Tensor]]:
        """Return where each parameter would change sign; nowhere if it is not a weight."""
        return [
            [
                before.sign() * parameter.sign() < 0 if is_weight else torch.zeros_like(before, dtype=torch.bool)
                for parameter, before, is_weight in zip(*each, strict=True)
            ]
            for each in zip(self._parameters, self._before, self._are_weights, strict=True)
        ]

    def _choose(self, counts: Tensor) -> Tensor:
        # One number per layer: its sign changes in the high bits, how long it was not chosen in the low ones. A single
        # argmax then takes the most sign changes and, among equals, the longest wait; no value goes to the host.
        longest = 2**_UNCHOSEN_BITS - 1
        chosen = ((counts << _UNCHOSEN_BITS) + self._unchosen.clamp(max=longest)).argmax()
        self._unchosen += 1
        self._unchosen.index_fill_(0, chosen.reshape(1), 0)
        return chosen


def _number_of(changes: Sequence[Tensor]) -> Tensor:
    return torch.stack([each.sum() for each in changes]).sum()


def _is_weight(name: str) -> bool:
    return name.rpartition(".")[2] == "weight"
