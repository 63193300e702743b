"""Variants of training under a recorder: what is recorded is what an independent computation of the training gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import ics
from ics.experiments import Experiment, RunConfig, fit, prepare, recipe, train

STEPS = 6
INSTRUMENTS = dict.fromkeys(
    ("activations", "gradients", "normalization", "gradient_shift", "gradient_line", "attribution", "drift"), "every(1)"
)
VARIANTS: dict[str, dict[str, object]] = {
    "penalty": {"gaussian_penalty": 0.2},
    "penalty and batch": {"gaussian_penalty": 0.2, "norm": "batch", "dropout": 0.2},
    "whitening": {"whiten_after_step": True, "momentum": 0.9},
    "whitening and penalty": {"whiten_after_step": True, "gaussian_penalty": 0.1},
    "one layer": {"one_layer_per_step": "update", "optimizer": "adam", "learning_rate": 0.05},
    "one layer's signs": {"one_layer_per_step": "sign", "norm": "batch", "learning_rate": 0.5},
}
LAYERS = ("linear1", "linear2", "output")

Parameters = dict[str, Tensor]


def config_of(variant: str, **changes: object) -> RunConfig:
    settings = {"steps": STEPS, "batch_size": 16, "hidden": (6, 5), "limit": 8, "dtype": "float64"}
    return recipe("digits-mlp", **{**settings, "instruments": INSTRUMENTS, **VARIANTS[variant], **changes})


@dataclass
class Plain:
    """A training without a recorder: parameters before each step and after the last, and the batches."""

    experiment: Experiment
    states: list[Parameters]
    batches: list[tuple[Tensor, Tensor]]


def train_plainly(config: RunConfig) -> Plain:
    experiment = prepare(config)
    plain = Plain(experiment, [parameters_of(experiment.model)], [])
    for batch in experiment.batches():
        experiment.optimizer.zero_grad()
        experiment.loss_fn(experiment.model, batch).backward()
        experiment.optimizer.step()
        experiment.after_step(batch)
        plain.states.append(parameters_of(experiment.model))
        plain.batches.append(batch)
    return plain


def parameters_of(model: nn.Module) -> Parameters:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def loss_at(config: RunConfig, parameters: Parameters, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Data loss and penalty of the MLP, written out; without normalisation and dropout."""
    values, divergences = batch[0].flatten(1), []
    for name in LAYERS[:-1]:
        values = values @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]
        mean, variance = values.mean(0), values.var(0, correction=0) + 1e-5
        standard = (values - mean) / variance.sqrt()
        skewness, excess = (standard**3).mean(0), (standard**4).mean(0) - 3
        divergences.append(((mean**2 + variance - 1 - variance.log()) / 2 + skewness**2 / 12 + excess**2 / 48).mean())
        values = values.relu()
    logits = values @ parameters["output.weight"].T + parameters["output.bias"]
    data_loss = -logits.log_softmax(1)[torch.arange(len(logits)), batch[1]].mean()
    return data_loss + config.gaussian_penalty * sum(divergences)


def gradient_at(config: RunConfig, parameters: Parameters, batch: tuple[Tensor, Tensor]) -> Parameters:
    values = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    gradients = torch.autograd.grad(loss_at(config, values, batch), list(values.values()))
    return dict(zip(values, gradients, strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_measured_training_ends_in_the_same_bits(variant: str, dtype: str, tmp_path: Path) -> None:
    config = config_of(variant, dtype=dtype, evaluate_every=2)
    plain = train_plainly(config.replace(evaluate_every=0))
    measured = prepare(config)
    recorder = ics.Recorder(
        measured.model,
        measured.loss_fn,
        to=tmp_path / "run",
        optimizer=measured.optimizer,
        instruments=config.schedules(),
        strict=True,
    )
    with recorder:
        fit(measured, recorder)
    got, expected = measured.model.state_dict(), plain.experiment.model.state_dict()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    assert ics.open_run(tmp_path / "run").info.get("notes", []) == []


@pytest.mark.parametrize("variant", ["penalty", "whitening", "whitening and penalty", "one layer"])
def test_what_is_recorded_is_what_happened(variant: str, tmp_path: Path) -> None:
    """Without normalisation, everything against the net written out in `loss_at`."""
    config = config_of(variant)
    plain, run = train_plainly(config), ics.open_run(train(config, to=tmp_path / "run"))
    assert str(run.info["objective"]).startswith("gradient of loss_fn is equal to the one training used")
    assert run.info.get("notes", []) == []
    steps, shifts = run.table("steps").set_index("step"), run.table("gradient_shift", where={"parameters": "weight"})
    lines = run.table("gradient_line", where={"direction": "gradient", "eta": 0.0}).set_index("step")
    for step, batch in enumerate(plain.batches):
        before, after = plain.states[step], plain.states[step + 1]
        row = steps.loc[step]
        moved = torch.cat([(after[name] - before[name]).flatten() for name in before])
        assert row["update_norm"] == pytest.approx(moved.norm().item(), rel=1e-9)

        trained = loss_at(config, before, batch).item()
        assert row["loss"] + row.get("gaussian_penalty", 0.0) == pytest.approx(trained, rel=1e-9)
        assert row["loss"] == pytest.approx(
            loss_at(config.replace(gaussian_penalty=0.0), before, batch).item(), rel=1e-9
        )
        assert lines.loc[step, "loss"] == pytest.approx(trained, rel=1e-9)

        gradient = gradient_at(config, before, batch)
        for index, layer in enumerate(LAYERS):
            hybrid = {n: after[n] if n.startswith(LAYERS[:index]) else before[n] for n in before}
            shifted = gradient_at(config, hybrid, batch)[f"{layer}.weight"]
            found = shifts[(shifts["step"] == step) & (shifts["layer"] == layer)].iloc[0]
            own = gradient[f"{layer}.weight"]
            assert found["gradient_norm"] == pytest.approx(own.norm().item(), rel=1e-8)
            assert found["shift_l2"] == pytest.approx((own - shifted).norm().item(), rel=1e-7, abs=1e-14)


@pytest.mark.parametrize("variant", ["penalty", "whitening"])
def test_one_pass_a_step_is_measured(variant: str, tmp_path: Path) -> None:
    config = config_of(variant)
    plain, run = train_plainly(config), ics.open_run(train(config, to=tmp_path / "run"))
    rows = run.table("activations", where={"layer": "linear1", "site": "preactivation"})
    assert rows["call"].tolist() == [0] * STEPS
    for step, (inputs, _) in enumerate(plain.batches):
        state = plain.states[step]
        expected = inputs.flatten(1) @ state["linear1.weight"].T + state["linear1.bias"]
        assert rows["count"].iloc[step] == expected.numel()
        assert rows["mean"].iloc[step] == pytest.approx(expected.mean().item(), rel=1e-9, abs=1e-12)
        assert rows["m2"].iloc[step] == pytest.approx(expected.var(correction=0).item(), rel=1e-9)


def test_the_table_steps_holds_what_each_variant_tells(tmp_path: Path) -> None:
    expected = {
        "penalty": {"gaussian_penalty"},
        "whitening": {"undone_fraction", "undone_cosine", "floor_fraction", "proposed_loss", "applied_loss"},
        "one layer": {"chosen_layer", "sign_changes_proposed", "sign_changes_made"},
    }
    for variant, columns in expected.items():
        steps = ics.open_run(train(config_of(variant, instruments={}), to=tmp_path / variant)).table("steps")
        assert steps[sorted(columns)].notna().all().all()


def test_the_shift_of_a_penalised_net_is_that_of_full_passes(tmp_path: Path) -> None:
    """With BatchNorm, over steps enough for the fastest way to G' to be chosen."""
    config = config_of("penalty and batch", dropout=0.0, hidden=(6, 5, 4), gaussian_penalty=5.0)
    plain, run = train_plainly(config), ics.open_run(train(config, to=tmp_path / "run"))
    shifts = run.table("gradient_shift", where={"parameters": "all"}).set_index(["step", "layer"])
    groups = [("linear1", "norm1"), ("linear2", "norm2"), ("linear3", "norm3"), ("output",)]

    def gradient(values: Parameters, batch: tuple[Tensor, Tensor], names: list[str]) -> Tensor:
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        net = plain.experiment.model
        loss = plain.experiment.loss_fn(lambda inputs: functional_call(net, leaves, inputs), batch)
        return torch.cat([each.flatten() for each in torch.autograd.grad(loss, [leaves[name] for name in names])])

    for step, batch in enumerate(plain.batches):
        before, after = plain.states[step], plain.states[step + 1]
        for index, group in enumerate(groups):
            earlier = sum(groups[:index], ())
            hybrid = {name: after[name] if name.startswith(earlier) else before[name] for name in before}
            # A bias in front of BatchNorm: its gradient is the penalty's alone.
            names = [name for name in before if name.startswith(group)]
            shift = gradient(before, batch, names) - gradient(hybrid, batch, names)
            assert shifts.loc[(step, group[0]), "shift_l2"] == pytest.approx(shift.norm().item(), rel=1e-7, abs=1e-13)
