"""What ends the measuring of a step by a plan, and that it never ends the pass that is measured."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

from ics.probes.planned.batched_rows import PlanLostError
from ics.probes.planned.planned_step import PlannedStep


class Failing(PlannedStep):
    """Raises an error at the second call, or at the end."""

    def __init__(self, model: nn.Module, *, at_call: Exception | None = None, at_end: Exception | None = None) -> None:
        super().__init__()
        self.num_calls = 0
        self._at_call, self._at_end = at_call, at_end
        self._hooks.after_each([model], self._after)

    def _take_call(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.num_calls += 1
        if self.num_calls == 2 and self._at_call is not None:
            raise self._at_call

    def _finish_passes(self) -> None:
        if self._at_end is not None:
            raise self._at_end

    def _waits(self, mode: int) -> bool:
        return False

    def _forget(self) -> None:
        self.num_calls = 0


@pytest.mark.parametrize("error", [PlanLostError(), ArithmeticError("no moments today")], ids=["lost", "failure"])
@pytest.mark.parametrize("when", ["at_call", "at_end"])
def test_a_lost_plan_or_an_error_ends_the_measuring_and_not_the_pass(when: str, error: Exception) -> None:
    model = nn.Linear(2, 2)
    step = Failing(model, **{when: error})
    outputs = [model(torch.ones(1, 2)) for _ in range(4)]
    step.detach()
    assert all(torch.equal(outputs[0], other) for other in outputs)
    assert step.num_calls == (2 if when == "at_call" else 4)
    assert step.lost is isinstance(error, PlanLostError)
    assert step.failure is (None if step.lost else error)
    assert not model._forward_hooks


def test_the_first_error_is_the_one_that_is_kept() -> None:
    first = ArithmeticError("first")
    model = nn.Linear(2, 2)
    step = Failing(model, at_call=first, at_end=PlanLostError())
    model(model(torch.ones(1, 2)))
    step.detach()
    assert (step.failure, step.lost) == (first, False)


def test_calls_of_other_threads_are_not_taken() -> None:
    model = nn.Linear(2, 2)
    step = Failing(model)
    thread = threading.Thread(target=model, args=(torch.ones(1, 2),))
    thread.start()
    thread.join()
    assert step.num_calls == 0
    model(torch.ones(1, 2))
    assert step.num_calls == 1
    step.detach()
