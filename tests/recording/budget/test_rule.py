"""The budget: what it allows on clocks that are simulated, that it holds, what a run says of it, and Law 1."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import ics
from ics.errors import MeasurementWarning, UsageError
from ics.recording.budget.costs import shared_out
from ics.recording.budget.rule import IDLE_STEPS, Budget
from ics.recording.budget.stopwatch import Stopwatch
from tests.recording.nets import OPTIMIZERS, loss_fn, loss_that_fails, make_batches, make_net, one_step
from tests.recording.test_nothing_changes import identical

ROOT = Path(__file__).parents[3]
DEAR, CHEAP = "gradient_shift", "activations"


class Training:
    """A training on a clock of its own: plain steps of `plain` seconds, measurements of `costs` plain steps each."""

    def __init__(self, target=0.02, *, schedules, costs, plain=1.0, once=0.0):
        self.now = 0.0
        self.budget = Budget(target, clock=lambda: self.now)
        self.schedules, self.costs, self.plain, self.once = schedules, dict(costs), plain, once
        self.measured = {name: [] for name in schedules}
        self.training = self.recording = 0.0
        self.spent = []

    def run(self, steps):
        """Train up to step `steps`, and return this training."""
        for step in range(len(self.spent), steps):
            chosen = self.budget.choose(step, {name for name, when in self.schedules.items() if when.due(step)})
            cost = self.plain * sum(self.costs[name] for name in chosen) + (self.once if chosen and not step else 0.0)
            parts = {frozenset({name}): self.plain * self.costs[name] for name in chosen}
            for name in chosen:
                self.measured[name].append(step)
            self.budget.start()
            self.now += self.plain + cost
            self.budget.stop(chosen or None, parts)
            self.training += self.plain
            self.recording += cost
            self.spent.append(self.recording / self.training)
        return self

    def stretch(self, name):
        return self.budget.describe()["instruments"][name]["stretch"]


def test_what_fits_is_not_stretched() -> None:
    training = Training(schedules={CHEAP: ics.every(100)}, costs={CHEAP: 1.0}).run(1001)
    assert training.measured[CHEAP] == list(range(0, 1001, 100))
    assert training.budget.describe()["stretch"] == []
    assert training.spent[-1] == pytest.approx(0.011, rel=1e-3)


def test_the_first_measurement_is_paid_back_before_the_next() -> None:
    training = Training(schedules={CHEAP: ics.every(10)}, costs={CHEAP: 0.1}, once=8.0).run(2001)
    first, second, *_ = training.measured[CHEAP]
    assert first == 0
    # 8.1 s at step 0 and its like again (what a second one takes is not known yet) are 2 % of 810 s; 0.81 of the
    # training time at every 10th step is 0.0127 at every 640th, the second of which after step 810 is 1280.
    assert second == 1280
    assert set(np.diff(training.measured[CHEAP][1:])) == {10}


@pytest.mark.parametrize("target", [0.005, 0.02, 0.1])
@pytest.mark.parametrize("cost", [0.03, 1.0, 12.0])
def test_the_bound_holds_from_when_the_first_measurements_are_paid_back(target, cost) -> None:
    schedules = {CHEAP: ics.every(1), DEAR: ics.every(10)}
    training = Training(target, schedules=schedules, costs={CHEAP: 0.02, DEAR: cost}).run(20_000)
    paid_back = next(step for step, spent in enumerate(training.spent) if spent <= target)
    assert max(training.spent[paid_back:]) <= target
    assert training.spent[-1] > min(target, 0.02 + cost / 10) / 4  # and it is used
    assert training.measured[CHEAP][-1] > 19_000
    assert training.measured[DEAR][-1] > 20_000 - 4 * max(cost / target, 10)
    assert training.budget.describe()["spent"] == pytest.approx(training.spent[-1], rel=1e-6)
    assert training.budget.describe()["recording_seconds"] == pytest.approx(training.recording, rel=1e-6)


def test_the_dearest_is_stretched_first_and_the_cheap_one_keeps_its_schedule() -> None:
    schedules = {CHEAP: ics.every(10), DEAR: ics.every(10)}
    training = Training(schedules=schedules, costs={CHEAP: 0.05, DEAR: 10.0}).run(50_000)
    assert (training.stretch(CHEAP), training.stretch(DEAR)) == (1, 128)  # shares 0.005 and 10 / 1280 of the 0.02
    settled = [step for step in training.measured[CHEAP] if step > 10_000]
    assert set(np.diff(settled)) == {10}
    assert np.diff([step for step in training.measured[DEAR] if step > 10_000]).max() <= 2 * 1280


def test_a_dear_one_is_not_starved_by_cheap_ones_that_would_take_the_whole_target() -> None:
    schedules = {CHEAP: ics.every(10), "gradients": ics.every(10), DEAR: ics.every(100)}
    training = Training(0.05, schedules=schedules, costs={CHEAP: 1.3, "gradients": 4.2, DEAR: 28.7}).run(20_000)
    assert len(training.measured[DEAR]) > 5
    assert training.spent[-1] <= 0.05


def test_stretched_schedules_meet_at_the_same_steps() -> None:
    schedules = {CHEAP: ics.every(10), DEAR: ics.every(10)}
    training = Training(schedules=schedules, costs={CHEAP: 1.0, DEAR: 10.0}).run(50_000)
    assert training.stretch(CHEAP) > 1
    cheap = [step for step in training.measured[CHEAP] if step > 10_000]
    assert set(training.measured[DEAR][-5:]) <= set(cheap)
    assert all(step % (10 * training.stretch(CHEAP)) == 0 for step in cheap)


def test_every_instrument_is_measured_the_first_time_that_it_is_due() -> None:
    schedules = {CHEAP: ics.every(1), DEAR: ics.at([7])}
    training = Training(schedules=schedules, costs={CHEAP: 1000.0, DEAR: 1000.0}).run(50)
    assert training.measured == {CHEAP: [0], DEAR: [7]}


def test_nothing_follows_before_it_is_known_what_a_plain_step_takes() -> None:
    training = Training(0.9, schedules={CHEAP: ics.every(1)}, costs={CHEAP: 0.1}).run(10)
    assert training.measured[CHEAP] == [0, *range(IDLE_STEPS + 1, 10)]


def test_a_schedule_that_has_ended_stretches_the_others_no_longer() -> None:
    schedules = {DEAR: ics.at(range(0, 50, 5)), CHEAP: ics.every(10)}
    training = Training(schedules=schedules, costs={CHEAP: 0.12, DEAR: 2.0}).run(20_000)
    assert set(np.diff([step for step in training.measured[CHEAP] if step > 10_000])) == {10}


def test_a_slow_patch_of_the_whole_machine_stretches_nothing() -> None:
    training = Training(schedules={CHEAP: ics.every(10)}, costs={CHEAP: 0.1}).run(5_000)
    before = training.budget.describe()["stretch"]
    training.plain = 20.0
    training.run(6_000)
    training.plain = 1.0
    training.run(12_000)
    assert training.budget.describe()["stretch"] == before
    late = [step for step in training.measured[CHEAP] if step > 6_200]
    assert set(np.diff(late)) == {10}


def test_after_a_patch_of_dear_measurements_the_schedule_comes_back() -> None:
    training = Training(schedules={CHEAP: ics.every(10)}, costs={CHEAP: 0.1}).run(5_000)
    training.costs[CHEAP] = 5.0  # a full disk, another program on the device
    training.run(15_000)
    assert training.stretch(CHEAP) >= 16
    paid_back = training.spent[-1]
    training.costs[CHEAP] = 0.1
    training.run(60_000)
    assert training.stretch(CHEAP) == 1
    assert max(training.spent[15_000:]) <= max(paid_back, 0.02)
    assert set(np.diff(training.measured[CHEAP][-50:])) == {10}


def test_noise_in_the_times_does_not_break_the_bound_or_write_a_change_a_minute() -> None:
    rng = np.random.default_rng(0)
    schedules = {CHEAP: ics.every(10), DEAR: ics.every(100)}
    training = Training(schedules=schedules, costs={CHEAP: 0.2, DEAR: 8.0})
    for step in range(1, 30_001):
        training.plain = float(rng.lognormal(0, 0.1))
        training.costs[CHEAP] = float(rng.lognormal(np.log(0.2), 0.3))
        training.run(step)
    described = training.budget.describe()
    assert max(training.spent[15_000:]) <= 0.02 * 1.1
    assert described["spent"] == pytest.approx(training.spent[-1], rel=0.1)
    assert len(described["stretch"]) < 30


def test_the_same_times_give_the_same_choices() -> None:
    schedules = {CHEAP: ics.every(3), DEAR: ics.log_spaced(40, until=3000)}
    first, second = (Training(schedules=schedules, costs={CHEAP: 0.3, DEAR: 4.0}).run(3000) for _ in range(2))
    assert first.measured == second.measured
    assert first.budget.describe() == second.budget.describe()


@pytest.mark.parametrize("target", [0, 1, 2, -0.1, "2%", float("nan")])
def test_a_target_that_is_no_share_gets_one_sentence(target, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"between 0 and 1, got .*; type budget=0.02"):
        ics.Recorder(make_net("reused"), to=tmp_path / "run", budget=target)
    assert not (tmp_path / "run").exists()


def test_seconds_of_a_host_that_ran_ahead_are_scaled_to_the_cost() -> None:
    parts = {frozenset({CHEAP}): 3.0, frozenset({DEAR}): 1.0}
    assert shared_out(0.4, frozenset({CHEAP, DEAR}), parts) == pytest.approx({CHEAP: 0.3, DEAR: 0.1})


class Event:
    """Stands for a device's event: it passes when the device has come by."""

    device_time = 0.0
    passed = 0
    made = 0

    def __init__(self, enable_timing):
        assert enable_timing
        Event.made += 1
        self.number, self.time = Event.made, Event.device_time

    def record(self, stream):
        self.time = Event.device_time

    def query(self):
        return self.number <= Event.passed

    def elapsed_time(self, end):
        return 1000 * (end.time - self.time)


def test_on_cuda_spans_are_the_devices_and_known_when_their_events_have_passed(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    watch = Stopwatch(torch.device("cuda"))
    for name in ("a", "b"):
        watch.start()
        Event.device_time += 2.0 if name == "a" else 3.0
        watch.stop(name)
    assert list(watch.settled()) == []
    Event.passed = 2
    assert list(watch.settled()) == [(2.0, "a")]
    assert list(watch.settled()) == []
    Event.passed = 4
    assert list(watch.settled()) == [(3.0, "b")]


def train(to, *, steps=12, seconds=None, **settings):
    """Train with a recorder; `seconds` adds what each evaluation of the loss takes to a clock that stands otherwise."""
    now = [0.0]

    def timed_loss(model, batch):
        now[0] += seconds or 0.0
        return loss_fn(model, batch)

    model = make_net("normalised_mlp")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    settings = {"budget": 0.02, "strict": True} | settings
    torch.manual_seed(2)
    with ics.Recorder(model, timed_loss, to=to, optimizer=optimizer, **settings) as recorder:
        if seconds is not None and settings["budget"]:
            recorder._clock = lambda: now[0]
            recorder._budget = Budget(settings["budget"], clock=lambda: now[0])
        for batch in make_batches(steps):
            with recorder.step(batch) as step:
                optimizer.zero_grad()
                loss = timed_loss(model, batch)
                loss.backward()
                optimizer.step()
                step.log(loss=loss)
    return ics.open_run(to), model


def test_a_recorder_keeps_its_budget_and_the_run_says_how(tmp_path) -> None:
    instruments = {"activations": 1, "gradient_line": 5}
    run, _ = train(tmp_path / "run", steps=600, seconds=1.0, budget=0.2, instruments=instruments)
    budget = run.info["budget"]
    assert budget["target"] == 0.2
    assert 0.1 < budget["spent"] <= 0.2
    assert budget["plain_step_seconds"] == 1.0
    # One evaluation at the weights themselves, and 8 step sizes; activations take no evaluation of their own.
    assert budget["instruments"]["gradient_line"]["plain_steps_per_measurement"] == pytest.approx(9.0, abs=1.0)
    steps = sorted(run.table("gradient_line")["step"].unique())
    stretch = budget["instruments"]["gradient_line"]["stretch"]
    assert stretch > 1
    assert set(np.diff(steps[-4:])) == {5 * stretch}
    assert budget["stretch"][-1]["gradient_line"] == stretch
    assert budget["instruments"]["gradient_line"]["measured"] == len(steps)
    assert run.info["instruments"]["gradient_line"] == "every(5)"  # what was asked for stays there


def test_kernels_are_made_before_training_and_are_no_cost_of_its_first_step(tmp_path, monkeypatch) -> None:
    prepared = []
    monkeypatch.setattr("ics.stats.backend", prepared.append)
    recorder = ics.Recorder(make_net("reused"), to=tmp_path / "run", instruments={"activations": 1}, budget=0.02)
    recorder.close()
    assert prepared == ["cpu"]


def test_without_a_budget_the_run_says_that_there_was_none(tmp_path) -> None:
    run, _ = train(tmp_path / "run", budget=None, instruments={"activations": 1})
    assert run.info["budget"] is None
    assert run.table("activations")["step"].nunique() == 12


def test_training_under_a_budget_is_bit_identical(tmp_path) -> None:
    model = make_net("normalised_mlp")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    torch.manual_seed(2)
    for batch in make_batches(12):
        one_step(model, optimizer, batch)
    instruments = {"activations": 1, "gradients": 2, "gradient_shift": 3, "gradient_line": 4, "drift": 2}
    run, measured = train(tmp_path / "run", instruments=instruments, budget=0.5)
    assert identical(model.state_dict(), measured.state_dict())
    assert 1 <= run.table("activations")["step"].nunique() < 12  # steps 1 to 3 tell what a plain step takes


def test_an_exception_in_the_block_leaves_the_budget_in_step(tmp_path) -> None:
    model = make_net("residual")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with ics.Recorder(
        model, loss_fn, to=tmp_path / "run", optimizer=optimizer, instruments={"activations": 2}, budget=0.5
    ) as recorder:
        for number, batch in enumerate(make_batches(9)):
            try:
                with recorder.step(batch):
                    one_step(model, optimizer, batch)
                    if number in (0, 4):
                        raise ZeroDivisionError
            except ZeroDivisionError:
                continue
    run = ics.open_run(tmp_path / "run")
    assert list(run.table("steps")["step"]) == list(range(7))
    assert 0 in set(run.table("activations")["step"])


def test_an_instrument_that_fails_takes_no_share_from_then_on(tmp_path) -> None:
    model = make_net("residual")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    instruments = {"gradient_line": 1, "activations": 1}
    with pytest.warns(MeasurementWarning, match="gradient_line switched off"):
        with ics.Recorder(
            model,
            loss_that_fails(after=2),
            to=tmp_path / "run",
            optimizer=optimizer,
            instruments=instruments,
            budget=0.5,
        ) as recorder:
            for batch in make_batches(8):
                with recorder.step(batch):
                    one_step(model, optimizer, batch)
    assert "gradient_line" not in ics.open_run(tmp_path / "run").info["budget"]["instruments"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_that_ends_leaves_the_run_to_the_process_that_opened_it(tmp_path) -> None:
    program = """
        import os, sys, ics
        from tests.recording.nets import *
        model = make_net("reused")
        recorder = ics.Recorder(model, to=sys.argv[1], instruments={"activations": 1}, budget=0.5)
        with recorder.step():
            model(make_batches(1)[0][0])
        child = os.fork()
        if child == 0:
            sys.exit(7)  # runs the exit handlers
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        recorder.close()
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program), str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ics.open_run(tmp_path / "run").state == "completed"
