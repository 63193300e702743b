"""An instrument of a user's own is recorded, read and guarded like a built-in one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

import ics
from ics.cli import main
from ics.errors import MeasurementWarning, SelectionError, UsageError
from ics.recording.instruments import Activations, GradientLine
from tests.recording.nets import OPTIMIZERS, loss_fn, make_batches, make_net, one_step
from tests.recording.test_nothing_changes import identical, num_hooks

TABLE = ics.Table(
    "weight_norm",
    row="step and layer",
    keys=(ics.schema.STEP, ics.schema.LAYER),
    values=(ics.Column("weight_norm", "float64", "lp norm of the weight", "weight"),),
)


@dataclass(frozen=True)
class WeightNorm(ics.Instrument):
    power: float = 2.0
    name = "weight_norm"
    needs = frozenset({"layers"})
    table = TABLE

    def measure(self, step):
        weights = dict(step.model.named_parameters())
        norms = [weights[layer.weight[0]].detach().norm(self.power) for layer in step.selected]
        yield ics.Block("weight_norm", {"layer": [layer.name for layer in step.selected], "weight_norm": norms})


class LossTwice(ics.Instrument):
    """The loss at W(t) and at W(t+1), on the training batch."""

    name = "loss_twice"
    needs = frozenset({"loss"})
    table = ics.Table(
        "loss_twice",
        "step",
        (ics.schema.STEP,),
        (ics.Column("before", "float64", "L(W(t))", "loss"), ics.Column("after", "float64", "L(W(t+1))", "loss")),
    )

    def measure(self, step):
        losses = [step.objective(at).loss for at in (step.before, step.after)]
        yield ics.Block("loss_twice", {"before": losses[:1], "after": losses[1:]})


def train(to, instruments, *, name="normalised_mlp", steps=4, **settings):
    model = make_net(name)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    torch.manual_seed(2)
    norms, losses = [], []
    with ics.Recorder(model, loss_fn, to=to, optimizer=optimizer, instruments=instruments, **settings) as recorder:
        for batch in make_batches(steps):
            with recorder.step(batch):
                losses.append(one_step(model, optimizer, batch).item())
            norms.append({key: value.detach().double().norm().item() for key, value in model.named_parameters()})
    return ics.open_run(to), model, norms, losses


def test_its_rows_are_stored_and_read_like_any_other(tmp_path):
    run, _, norms, _ = train(tmp_path / "run", {WeightNorm(): ics.every(2), "activations": 2}, strict=True)
    rows = run.table("weight_norm")
    assert list(run.tables) == ["steps", "activations", "weight_norm"]
    assert list(rows.columns) == ["step", "layer", "weight_norm"]
    assert sorted(set(rows["step"])) == [0, 2]
    for row in rows.itertuples():
        assert row.weight_norm == pytest.approx(norms[row.step][f"{row.layer}.weight"], rel=1e-6)
    assert run.table("weight_norm", where={"step": 2}, columns=["weight_norm"]).shape == (3, 1)
    assert run.info["instruments"]["weight_norm"] == "every(2)"
    assert run.schema["weight_norm"] == TABLE
    assert run.schema["weight_norm"].column("weight_norm").unit == "weight"


def test_the_command_line_shows_its_rows_and_its_schema(tmp_path, capsys):
    train(tmp_path / "run", {WeightNorm(): 1}, strict=True)
    assert main(["show", str(tmp_path / "run"), "--table", "weight_norm", "--where", "step in 1,2"]) == 0
    rows = capsys.readouterr().out
    assert rows.splitlines()[0].split() == ["step", "layer", "weight_norm"]
    assert len(rows.splitlines()) == 7
    assert main(["schema", "weight_norm", "--run", str(tmp_path / "run")]) == 0
    assert "weight_norm: float64, weight" in capsys.readouterr().out
    assert main(["show", str(tmp_path / "run"), "--table", "weight_norm", "--where", "layers=1"]) == 2
    assert "column of weight_norm is named 'layers'; did you mean 'layer'" in capsys.readouterr().err


def test_several_runs_are_read_together_whether_or_not_all_hold_it(tmp_path):
    train(tmp_path / "a", {WeightNorm(): 1}, strict=True)
    train(tmp_path / "b", {"activations": 1}, strict=True)
    rows = ics.open_runs(tmp_path).table("weight_norm", where={"step": 1})
    assert set(rows["run"]) == {"a"}


def test_training_with_it_is_bit_identical(tmp_path):
    model = make_net("normalised_mlp")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    torch.manual_seed(2)
    for batch in make_batches(4):
        one_step(model, optimizer, batch)
    everything = {WeightNorm(): 1, LossTwice(): 1, "gradient_shift": 1}
    _, measured, _, _ = train(tmp_path / "run", everything, strict=True)
    assert identical(model.state_dict(), measured.state_dict())


def test_one_that_evaluates_the_loss_sees_the_step_as_training_saw_it(tmp_path):
    run, _, _, losses = train(tmp_path / "run", {LossTwice(): 1, "gradient_line": 1}, strict=True)
    rows = run.table("loss_twice")
    assert list(rows["before"]) == pytest.approx(losses, rel=1e-6)  # the dropout masks are those of training
    line = run.table("gradient_line", where={"eta": 0.0})
    assert list(line["loss"]) == list(rows["before"])
    assert (rows["after"] != rows["before"]).all()
    assert "is equal to the one training used" in run.info["objective"]


def test_what_it_needs_is_asked_for_when_the_recorder_is_made(tmp_path):
    with pytest.raises(UsageError, match=r"loss_twice evaluates the loss .* got none"):
        ics.Recorder(make_net("reused"), to=tmp_path / "run", instruments={LossTwice(): 1})
    assert not (tmp_path / "run").exists()
    recorder = ics.Recorder(make_net("reused"), loss_fn, to=tmp_path / "run", instruments={LossTwice(): 1})
    with pytest.raises(UsageError, match=r"type recorder\.step\(batch\)"):
        recorder.step()
    recorder.close()


def wrong(measure, **attributes):
    """Return an instrument like `WeightNorm` that does something else."""
    return type("Wrong", (WeightNorm,), {"measure": measure, **attributes})()


def fails(self, step):
    raise RuntimeError("out of luck")


MISTAKES = {
    "RuntimeError: out of luck": fails,
    "expected blocks of the table weight_norm, got 'other'": lambda self, step: [ics.Block("other", {})],
    "expected blocks of the table weight_norm, got 'str'": lambda self, step: ["rows"],
    "expected the key layer in every block": lambda self, step: [ics.Block("weight_norm", {"weight_norm": [1.0]})],
    "expected the columns .* got 'norm'": lambda self, step: [
        ics.Block("weight_norm", {"layer": ["0"], "norm": [1.0]})
    ],
    "weight_norm .* expects float64, got a str": lambda self, step: [
        ics.Block("weight_norm", {"layer": ["0"], "weight_norm": ["1"]})
    ],
    r"weight_norm .* expects float64, got a Tensor of shape \(2,\)": lambda self, step: [
        ics.Block("weight_norm", {"layer": ["0"], "weight_norm": [torch.ones(2)]})
    ],
    "layer .* expects string, got a NoneType": lambda self, step: [
        ics.Block("weight_norm", {"layer": [None], "weight_norm": [1.0]})
    ],
    "differ in length": lambda self, step: [ics.Block("weight_norm", {"layer": ["0"], "weight_norm": []})],
    "not iterable": lambda self, step: None,
}


@pytest.mark.parametrize("message", MISTAKES)
def test_one_that_goes_wrong_is_switched_off_with_one_warning_and_nothing_else_is_lost(message, tmp_path):
    with pytest.warns(MeasurementWarning, match=f"weight_norm switched off at step 0: .*{message}") as caught:
        run, *_ = train(tmp_path / "run", {wrong(MISTAKES[message]): 1, "activations": 1})
    assert len(caught) == 1
    assert run.state == "completed"
    assert run.tables == ("steps", "activations")
    assert run.table("activations")["step"].nunique() == 4
    assert any("weight_norm switched off" in note for note in run.info["notes"])


def test_a_strict_recorder_raises(tmp_path):
    with pytest.raises(RuntimeError, match="out of luck"):
        train(tmp_path / "run", {wrong(fails): 1}, strict=True)


def test_its_hooks_live_as_long_as_the_block_and_their_errors_stay_inside(tmp_path):
    seen = []

    @contextmanager
    def attach(self, step) -> Iterator[None]:
        handles = [module.register_forward_hook(lambda *_: seen.append(1)) for module in step.model.modules()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            if len(seen) > 20:
                raise RuntimeError("a late mistake")

    instrument = wrong(lambda self, step: [], attach=attach, needs=frozenset({"passes"}))
    with pytest.warns(MeasurementWarning, match="weight_norm switched off at step 2: RuntimeError: a late mistake"):
        _, model, _, losses = train(tmp_path / "run", {instrument: 1, "gradients": 1})
    assert len(losses) == 4
    assert len(seen) == 30  # ten modules, three steps, and none after it was switched off
    assert num_hooks(model, OPTIMIZERS["sgd"](model.parameters())) == 0


def test_one_that_cannot_be_attached_costs_the_others_nothing(tmp_path):
    def attach(self, step):
        raise RuntimeError("no place")

    with pytest.warns(MeasurementWarning, match="weight_norm switched off at step 0: RuntimeError: no place"):
        run, *_ = train(tmp_path / "run", {wrong(fails, attach=attach): 1, "activations": 1})
    assert run.table("activations")["step"].nunique() == 4


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"name": "weight norm"}, "expects a name of letters"),
        ({"name": None}, "expects a name of letters"),
        ({"table": None}, "expects a table, got NoneType"),
        ({"table": ics.Table("steps", "step", (ics.schema.STEP,), ())}, "a table of its own, got the name 'steps'"),
        ({"table": ics.Table("mine", "layer", (ics.schema.LAYER,), ())}, "expects ics.schema.STEP as its first key"),
        ({"needs": frozenset({"luck"})}, "needs luck, expected of: layers"),
    ],
)
def test_one_that_does_not_say_what_it_is_is_refused_before_anything_is_made(attributes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        train(tmp_path / "run", {wrong(fails, **attributes): 1})
    assert not (tmp_path / "run").exists()


def test_one_that_asks_for_what_it_did_not_say_it_needs_is_told_so(tmp_path):
    asking = wrong(lambda self, step: [step.before])
    with pytest.warns(MeasurementWarning, match=r'give yours needs = frozenset\(\{"update"\}\)'):
        train(tmp_path / "run", {asking: 1, "activations": 1})


@pytest.mark.parametrize("where", ["entering", "leaving"])
def test_a_strict_recorder_that_raises_leaves_nothing_attached(where, tmp_path):
    @contextmanager
    def attach(self, step) -> Iterator[None]:
        if where == "entering":
            raise RuntimeError("no place")
        yield
        raise RuntimeError("no place")

    model = make_net("residual")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    instruments = {"activations": 1, "gradients": 1, wrong(fails, attach=attach): 1}
    recorder = ics.Recorder(model, to=tmp_path / "run", optimizer=optimizer, instruments=instruments, strict=True)
    with pytest.raises(RuntimeError, match="no place"):
        with recorder.step():
            one_step(model, optimizer, make_batches(1)[0])
    assert num_hooks(model, optimizer) == 0
    recorder.close()


def test_two_of_one_name_are_refused(tmp_path):
    with pytest.raises(UsageError, match="got two called 'weight_norm'"):
        train(tmp_path / "run", {WeightNorm(): 1, WeightNorm(3.0): 1})


def test_something_else_than_an_instrument_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"an ics\.Instrument, got ABCMeta"):
        train(tmp_path / "run", {WeightNorm: 1})


def test_a_column_of_no_type_is_refused():
    with pytest.raises(UsageError, match=r"expects a dtype of int64, float64, .* got 'float'"):
        ics.Column("mine", "float", "a number")


def test_a_list_takes_each_instrument_at_its_default_schedule(tmp_path):
    run, *_ = train(tmp_path / "run", ["activations", WeightNorm()], strict=True)
    assert run.info["instruments"] == {"activations": "every(10)", "weight_norm": "every(100)"}


def test_a_built_in_one_may_be_given_as_a_value_with_its_options(tmp_path):
    chosen = {GradientLine(etas=[0.1, 0.2]): 2, Activations(sites="input", histogram=False): 2}
    run, *_ = train(tmp_path / "value", chosen, strict=True)
    options = {"gradient_line": {"etas": [0.1, 0.2]}, "activations": {"sites": "input", "histogram": False}}
    other, *_ = train(tmp_path / "name", dict.fromkeys(options, 2), options=options, strict=True)
    assert set(run.table("activations")["site"]) == {"input"}
    for table in options:
        assert run.table(table).equals(other.table(table))


def test_an_option_of_a_built_in_one_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SelectionError, match="option of gradient_line is named 'eta'; did you mean 'etas'"):
        train(tmp_path / "run", {"gradient_line": 1}, options={"gradient_line": {"eta": [0.1]}})


def test_a_run_that_is_replaced_leaves_no_table_of_an_instrument_behind(tmp_path):
    train(tmp_path / "run", {WeightNorm(): 1}, strict=True)
    run, *_ = train(tmp_path / "run", {"activations": 1}, overwrite=True, strict=True)
    assert run.tables == ("steps", "activations")
    assert not (tmp_path / "run" / "weight_norm").exists()


def test_under_a_budget_it_is_measured_and_its_cost_is_known(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run, *_ = train(tmp_path / "run", {WeightNorm(): 1, LossTwice(): 1}, steps=30, budget=0.9)
    assert set(run.info["budget"]["instruments"]) == {"weight_norm", "loss_twice"}
    assert run.info["budget"]["instruments"]["weight_norm"]["measured"] >= 1
