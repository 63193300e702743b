"""When the gradient that the optimizer used is read: closures, several optimizers, no step, several, two passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ics
from ics.errors import MeasurementWarning, UsageError
from tests.field.loops import gradients_at, loss_fn, make_batches, make_net, parameter_rows, recorded, values_of

CLOSURES = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "adamw foreach": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, foreach=True),
    "lbfgs": lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=4),
    "lbfgs with a line search": lambda parameters: torch.optim.LBFGS(parameters, line_search_fn="strong_wolfe"),
    "rprop": lambda parameters: torch.optim.Rprop(parameters),
}


def gradients_into(wanted):
    """Return what keeps the gradients of plain autograd, to be called before each block."""
    return lambda model, batch: wanted.append(gradients_at(model, batch))


def closure_of(model, optimizer, batch):
    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("name", CLOSURES)
def test_a_closure_makes_the_gradients_after_the_step_has_begun(name, by_name, tmp_path):
    model, batches, wanted = make_net(), make_batches(3), []
    optimizer = CLOSURES[name](model.parameters())

    def block(model, optimizer, batch):
        closure = closure_of(model, optimizer, batch)
        optimizer.step(closure=closure) if by_name else optimizer.step(closure)

    def before(model, batch):
        wanted.append((gradients_at(model, batch), values_of(model)))

    instruments = ["gradients", "gradient_shift"]
    run = recorded(model, optimizer, tmp_path / "run", instruments, block, batches, before=before)
    rows = parameter_rows(run)
    for step, (gradients, _) in enumerate(wanted):
        for of, gradient in gradients.items():
            assert rows.loc[(step, of), "gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-9)
    assert "is equal to the one training used" in run.info["objective"]
    shift = run.table("gradient_shift", where={"parameters": "weight", "layer": "2"}).set_index("step")
    before, after = wanted[0][1], wanted[1][1]
    hybrid = {**before, **{of: after[of] for of in ("0.weight", "0.bias")}}
    moved = gradients_at(model, batches[0], at=hybrid)["2.weight"] - wanted[0][0]["2.weight"]
    assert shift.loc[0, "shift_l2"] == pytest.approx(moved.norm().item(), rel=1e-9)


def test_a_training_by_closures_is_bit_identical(tmp_path):
    models = [make_net(), make_net()]
    for number, model in enumerate(models):
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

        def block(model, optimizer, batch):
            optimizer.step(closure_of(model, optimizer, batch))

        if number:
            recorded(
                model, optimizer, tmp_path / "run", ["gradients", "gradient_shift", "drift"], block, make_batches(3)
            )
        else:
            for batch in make_batches(3):
                block(model, optimizer, batch)
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


def test_of_several_optimizers_each_gives_the_gradients_of_its_own_parameters(tmp_path):
    model, batches, wanted = make_net(), make_batches(2), []
    first, second = torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[2].parameters(), lr=0.01)

    def block(model, optimizer, batch):
        model.zero_grad()
        loss_fn(model, batch).backward()
        own = {f"0.{name}": value.grad.clone() for name, value in model[0].named_parameters()}
        first.step()
        first.zero_grad()  # as GANs do: the other's gradients are made anew
        second.zero_grad()
        loss_fn(model, batch).backward()
        wanted.append(own | {f"2.{name}": value.grad.clone() for name, value in model[2].named_parameters()})
        second.step()

    run = recorded(model, [first, second], tmp_path / "run", ["gradients"], block, batches)
    rows = parameter_rows(run)
    for step, gradients in enumerate(wanted):
        for of, gradient in gradients.items():
            assert rows.loc[(step, of), "gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-9)


def test_a_parameter_that_no_given_optimizer_holds_is_null_with_that_reason(tmp_path):
    model = make_net()
    given, other = (torch.optim.SGD(model[place].parameters(), lr=0.1) for place in (0, 2))

    def block(model, optimizer, batch):
        model.zero_grad()
        loss_fn(model, batch).backward()
        given.step()
        other.step()

    rows = parameter_rows(recorded(model, given, tmp_path / "run", ["gradients"], block, make_batches(1)))
    assert rows.loc[(0, "0.weight"), "gradient_norm"] > 0
    assert rows.loc[(0, "2.weight"), "null_reason"] == "no optimizer that was given holds this parameter"
    assert rows["gradient_norm"].isna().sum() == 2
    assert rows.loc[(0, "2.weight"), "update_norm"] > 0  # it moved all the same


def test_a_frozen_parameter_says_so(tmp_path):
    model = make_net()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    rows = parameter_rows(recorded(model, optimizer, tmp_path / "run", ["gradients"], plain, make_batches(1)))
    assert rows.loc[(0, "0.weight"), "null_reason"] == "the parameter is frozen: it needs no gradient"
    assert rows["gradient_norm"].isna().sum() == 1


def plain(model, optimizer, batch):
    model.zero_grad()
    loss_fn(model, batch).backward()
    optimizer.step()


def without_a_step(model, optimizer, batch):
    model.zero_grad()
    loss_fn(model, batch).backward()


def skipped_by_a_scaler(model, optimizer, batch):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    model.zero_grad()
    scaler.scale(loss_fn(model, batch) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("block", [without_a_step, skipped_by_a_scaler])
def test_a_block_without_a_step_has_no_shift_of_zero(block, tmp_path):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    instruments = ["gradients", "gradient_shift", "attribution", "drift"]
    with pytest.warns(MeasurementWarning, match="the optimizer did not step at step 0: what compares") as caught:
        run = recorded(model, optimizer, tmp_path / "run", instruments, block, make_batches(2), strict=False)
    assert len([each for each in caught if "did not step" in str(each.message)]) == 1
    shift = run.table("gradient_shift")
    assert len(shift) == 8
    assert set(shift["null_reason"]) == {"the optimizer did not step"}
    assert shift[["shift_l2", "shift_cosine", "shift_relative"]].isna().all(axis=None)
    assert set(parameter_rows(run)["null_reason"]) == {"the optimizer did not step"}
    assert set(run.table("attribution")["null_reason"]) == {"the optimizer did not step"}
    drift = run.table("drift", where={"reference": "before_update"})
    assert len(drift)
    assert drift["mean_shift"].isna().all()
    assert any("did not step" in note for note in run.info["notes"])


def test_a_step_of_learning_rate_zero_is_a_step(tmp_path):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    run = recorded(model, optimizer, tmp_path / "run", ["gradient_shift"], plain, make_batches(1))
    assert (run.table("gradient_shift")["shift_l2"] == 0).all()


def test_of_several_steps_in_a_block_the_first_gives_the_gradients_and_a_note_says_so(tmp_path):
    model, wanted = make_net(), []

    def block(model, optimizer, batch):
        plain(model, optimizer, batch)
        plain(model, optimizer, batch)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(MeasurementWarning, match="the optimizer stepped 2 times in the block of step 0"):
        run = recorded(
            model,
            optimizer,
            tmp_path / "run",
            ["gradients"],
            block,
            make_batches(2),
            before=gradients_into(wanted),
            strict=False,
        )
    rows = parameter_rows(run)
    for step, gradients in enumerate(wanted):
        assert rows.loc[(step, "0.weight"), "gradient_norm"] == pytest.approx(gradients["0.weight"].norm().item())


class TwoPass(torch.optim.Optimizer):
    """SAM (Foret et al. 2021): steps with the gradient at w + rho g / ||g||."""

    def __init__(self, parameters, base, **options):
        super().__init__(parameters, {})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    def first_step(self):
        self.old = [[value.detach().clone() for value in group["params"]] for group in self.param_groups]
        norm = torch.stack([value.grad.norm() for group in self.param_groups for value in group["params"]]).norm()
        with torch.no_grad():
            for group in self.param_groups:
                for value in group["params"]:
                    value.add_(value.grad, alpha=float(0.05 / norm))

    def second_step(self):
        with torch.no_grad():
            for group, olds in zip(self.param_groups, self.old, strict=True):
                for value, old in zip(group["params"], olds, strict=True):
                    value.copy_(old)
        self.base_optimizer.step()

    def step(self, closure=None):
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


@pytest.mark.parametrize("through", ["two calls", "a closure"])
@pytest.mark.parametrize("given", ["outer", "base"])
def test_a_two_pass_optimizer_is_read_where_it_takes_its_step(given, through, tmp_path):
    model, wanted = make_net(), []
    sam = TwoPass(model.parameters(), torch.optim.SGD, lr=0.1)

    def block(model, optimizer, batch):
        def again():
            model.zero_grad()
            loss_fn(model, batch).backward()
            wanted.append({name: value.grad.clone() for name, value in model.named_parameters()})

        model.zero_grad()
        loss_fn(model, batch).backward()
        if through == "a closure":
            sam.step(again)
        else:
            sam.first_step()
            again()
            sam.second_step()

    optimizer = sam if given == "outer" else sam.base_optimizer
    with pytest.warns(MeasurementWarning, match="differs from the one training used") as caught:
        run = recorded(
            model, optimizer, tmp_path / "run", ["gradients", "gradient_shift"], block, make_batches(2), strict=False
        )
    rows = parameter_rows(run)
    for step, gradients in enumerate(wanted):
        for of, gradient in gradients.items():
            assert rows.loc[(step, of), "gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-9)
    if given == "outer":
        assert any("a two-pass optimizer (SAM)" in str(each.message) for each in caught)


def test_optimizers_that_step_inside_the_backward_pass_are_read_one_by_one(tmp_path):
    model, wanted = make_net(), []
    each = {value: torch.optim.SGD([value], lr=0.1) for value in model.parameters()}

    def step_now(parameter):
        each[parameter].step()
        each[parameter].zero_grad()

    for value in model.parameters():
        value.register_post_accumulate_grad_hook(step_now)

    def block(model, optimizer, batch):
        loss_fn(model, batch).backward()

    given, before = list(each.values()), gradients_into(wanted)
    run = recorded(model, given, tmp_path / "run", ["gradients"], block, make_batches(2), before=before)
    rows = parameter_rows(run)
    for step, gradients in enumerate(wanted):
        for of, gradient in gradients.items():
            assert rows.loc[(step, of), "gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-9)


def test_gradients_that_the_loop_clears_before_the_block_ends_are_not_lost(tmp_path):
    model, wanted = make_net(), []

    def block(model, optimizer, batch):
        plain(model, optimizer, batch)
        optimizer.zero_grad()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = parameter_rows(
        recorded(
            model, optimizer, tmp_path / "run", ["gradients"], block, make_batches(1), before=gradients_into(wanted)
        )
    )
    assert rows.loc[(0, "0.bias"), "gradient_norm"] == pytest.approx(wanted[0]["0.bias"].norm().item(), rel=1e-9)


def test_without_an_optimizer_gradients_that_are_gone_are_null_with_that_reason(tmp_path):
    model = make_net()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)

    def block(model, optimizer, batch):
        plain(model, inner, batch)
        inner.zero_grad()

    rows = parameter_rows(recorded(model, None, tmp_path / "run", ["gradients"], block, make_batches(1)))
    assert set(rows["null_reason"]) == {"no optimizer was given, and the loop left no gradient in .grad"}


def test_parameters_that_another_optimizer_moves_are_told(tmp_path):
    model = make_net()
    given, other = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))

    def block(model, optimizer, batch):
        plain(model, other, batch)

    with pytest.warns(MeasurementWarning, match="not by the optimizer that was given"):
        run = recorded(model, given, tmp_path / "run", ["gradients"], block, make_batches(1), strict=False)
    assert parameter_rows(run)["gradient_norm"].isna().all()


class Wrapper:
    """What frameworks put around an optimizer."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.step()

    def zero_grad(self):
        self.optimizer.zero_grad()


def test_a_wrapper_that_holds_the_optimizer_is_taken_off(tmp_path):
    model, wanted = make_net(), []

    def block(model, optimizer, batch):
        plain(model, optimizer, batch)

    wrapper = Wrapper(Wrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    rows = parameter_rows(
        recorded(model, wrapper, tmp_path / "run", ["gradients"], block, make_batches(1), before=gradients_into(wanted))
    )
    assert rows.loc[(0, "0.weight"), "gradient_norm"] == pytest.approx(wanted[0]["0.weight"].norm().item(), rel=1e-9)


@pytest.mark.parametrize("wrong", ["sgd", ["sgd"], [], object(), torch.optim.SGD, {"a": 1}])
def test_what_is_no_optimizer_is_refused_in_a_sentence_before_anything_is_made(wrong, tmp_path):
    with pytest.raises(UsageError, match=r"optimizer expects .*type optimizer=optimizer"):
        ics.Recorder(make_net(), to=tmp_path / "run", optimizer=wrong, instruments={"gradients": 1})
    assert not (tmp_path / "run").exists()


def test_a_scheduler_is_no_optimizer(tmp_path):
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1), 1)
    with pytest.raises(UsageError, match="got StepLR"):
        ics.Recorder(make_net(), to=tmp_path / "run", optimizer=scheduler, instruments={"gradients": 1})


def test_a_factor_that_no_clipping_explains_is_a_warning(tmp_path):
    model = make_net()

    def block(model, optimizer, batch):
        model.zero_grad()
        (8 * loss_fn(model, batch)).backward()
        optimizer.step()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.warns(MeasurementWarning, match="training used 8 times the gradient of loss_fn"):
        recorded(model, optimizer, tmp_path / "run", ["gradient_shift"], block, make_batches(1), strict=False)
