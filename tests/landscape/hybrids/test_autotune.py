from __future__ import annotations

import pytest
from torch import nn

from ics.landscape.hybrids import autotune
from ics.landscape.hybrids.autotune import fastest
from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.stacked.batched import batched_passes
from ics.landscape.hybrids.stacked.staircase import staircase
from tests.landscape.steps import all_of, assert_same, deep_linear, groups_of, step_of


class Clock:
    """Stands for `time`: every way takes the seconds that are written down for it, and its calls are listed."""

    def __init__(self, seconds):
        self.seconds, self.now, self.calls = seconds, 0.0, []

    def perf_counter(self):
        return self.now

    def charged(self, name, way):
        def charged(*arguments, **options):
            call = (name, options.get("features_first"))
            self.calls.append(call)
            self.now += self.seconds[call]
            return way(*arguments, **options)

        return charged


class Moody(nn.Linear):
    """Reads a number of the pass when it feels like it."""

    reads = False

    def forward(self, x):
        out = super().forward(x)
        assert not self.reads or out.sum().item() != 0
        return out


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ((0.1, 0.2, 0.02, 0.03, 0.03), ("batched", None)),
        ((0.1, 0.2, 0.02, 0.01, 0.03), ("staircase", False)),
        ((0.1, 0.2, 0.02, 0.03, 0.01), ("staircase", True)),
        ((0.1, 0.2, 0.09, 0.09, 0.09), ("usual", None)),
        ((0.1, 0.09, 0.08, 0.08, 0.08), ("full", None)),
        ((9.0, 3.7, 0.01, 0.01, 0.01), ("usual", None)),  # two of five full passes are timed
        ((9.0, 3.5, 0.01, 0.01, 0.01), ("full", None)),
        ((9.0, 3.7), ("usual", None)),
        ((9.0, 3.5), ("full", None)),
        ((0.1, 0.09), ("full", None)),
        ((0.09, 0.1), ("usual", None)),
    ],
)
def test_the_fastest_way_is_chosen_once_and_the_first_result_is_the_usual_one(monkeypatch, seconds, chosen):
    stacking = [("batched", None), ("staircase", False), ("staircase", True)]
    ways = [("usual", None), ("full", None), *stacking][: len(seconds)]
    clock, exact = Clock(dict(zip(ways, seconds, strict=True))), len(seconds) == 2
    model = deep_linear()
    transition, layers = step_of(model, groups_of(model))
    wanted = all_of(full_passes, transition, layers)
    usual = clock.charged("usual", full_passes)
    monkeypatch.setattr(autotune, "time", clock)
    monkeypatch.setattr(autotune, "full_passes", clock.charged("full", full_passes))
    monkeypatch.setattr(autotune, "batched_passes", clock.charged("batched", batched_passes))
    monkeypatch.setattr(autotune, "staircase", clock.charged("staircase", staircase))
    assert_same(all_of(fastest, transition, layers, usual=usual, exact=exact), wanted, rel=0)
    assert clock.calls == [("usual", None)]  # a single measurement pays for no choice
    assert_same(all_of(fastest, transition, layers, usual=usual, exact=exact), wanted, rel=0)
    assert clock.calls[1] == ("usual", None)
    assert seconds[0] < 1 or clock.calls[2:] == [("full", None)]
    for _ in range(2):
        clock.calls.clear()
        assert_same(all_of(fastest, transition, layers, usual=usual, exact=exact), wanted)
        assert clock.calls == [chosen]


def test_a_batched_pass_that_fails_later_is_replaced_by_the_usual_way_for_good(monkeypatch):
    model = nn.Sequential(*(Moody(4, 4) for _ in range(4)))
    transition, layers = step_of(model, [(str(i),) for i in range(4)])
    wanted = all_of(full_passes, transition, layers)
    monkeypatch.setattr(autotune, "_WORTHWHILE", 1e-9)
    for _ in range(2):
        all_of(fastest, transition, layers)
    (way,) = autotune._chosen[model].values()
    assert getattr(way, "func", way) in (batched_passes, staircase)
    model[2].reads = True
    assert_same(all_of(fastest, transition, layers), wanted, rel=0)
    assert set(autotune._chosen[model].values()) == {full_passes}


def test_a_wrong_way_is_never_chosen(monkeypatch):
    model = deep_linear()
    transition, layers = step_of(model, groups_of(model))

    def wrong(way):
        def found(*arguments, **options):
            for layer, gradients in way(*arguments, **options):
                yield layer, {name: gradient * 1.001 for name, gradient in gradients.items()}

        return found

    monkeypatch.setattr(autotune, "batched_passes", wrong(batched_passes))
    monkeypatch.setattr(autotune, "staircase", wrong(staircase))
    monkeypatch.setattr(autotune, "_WORTHWHILE", 1e-9)
    wanted = all_of(full_passes, transition, layers)
    for _ in range(3):
        assert_same(all_of(fastest, transition, layers), wanted, rel=0)


def test_what_was_chosen_goes_with_the_model():
    model = deep_linear()
    transition, layers = step_of(model, groups_of(model))
    for _ in range(2):
        all_of(fastest, transition, layers)
    num_models = len(autotune._chosen)
    del transition, model
    assert len(autotune._chosen) == num_models - 1
