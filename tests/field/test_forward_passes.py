"""Which forward passes count: an evaluation inside the block does not mix with training's passes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ics
from ics.probes import Plans, Probes
from tests.probes.rows import by_site, normalizations

Beside = Callable[[nn.Module], Any]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, 2)).double()


def evaluated(model: nn.Module) -> None:
    """A validation: eval mode, no graph."""
    model.eval()
    with torch.no_grad():
        model(torch.randn(40, 4).double())
    model.train()


def evaluated_with_a_graph(model: nn.Module) -> None:
    """Someone forgot no_grad."""
    model.eval()
    model(torch.randn(40, 4).double())
    model.train()


def target(model: nn.Module) -> None:
    """A bootstrapped target or a mean teacher: train mode, no graph."""
    with torch.no_grad():
        model(torch.randn(40, 4).double())


def in_inference(model: nn.Module) -> None:
    model.eval()
    with torch.inference_mode():
        model(torch.randn(40, 4).double())
    model.train()


def attacked(model: nn.Module) -> None:
    """An adversarial example made in eval mode."""
    model.eval()
    x = torch.randn(40, 4).double().requires_grad_()
    torch.autograd.grad(model(x).sum(), x)
    model.train()


def with_averaged_weights(model: nn.Module) -> None:
    """The weights are swapped for their moving average, evaluated, and put back."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    evaluated(model)
    model.load_state_dict(kept)


BESIDE = [evaluated, evaluated_with_a_graph, target, in_inference, attacked, with_averaged_weights]


def trained_beside(model: Any, x: Tensor, before: Beside, after: Beside) -> Tensor:
    """Train on a batch with other passes before and after it; return the model's output."""
    seen: list[Tensor] = []
    model.zero_grad()
    before(model)
    handle = model[4].register_forward_hook(lambda *each: seen.append(each[2].detach()))
    model(x).square().mean().backward()
    handle.remove()
    after(model)
    return seen[0]


def nothing(model: nn.Module) -> None:
    """No other pass."""


def rows_of_step(
    model: nn.Module, run: Callable[[], Any], plans: Plans | None, **options: Any
) -> tuple[dict[Any, dict[str, Any]], Probes]:
    wanted = {"activations": True, "gradients": True, "normalization": True, **options}
    probes = Probes(model, plans=plans, **wanted)
    with probes:
        run()
    return by_site(probes.blocks()[0]), probes


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("options", [{}, {"gradients": False, "normalization": False}, {"gradients": False}], ids=str)
@pytest.mark.parametrize("beside", BESIDE)
def test_passes_beside_the_training_do_not_mix(beside: Beside, options: dict[str, Any], first: bool) -> None:
    """A plan is made, then the other pass comes: the rows are those of the 6 samples that were trained on."""
    for planned_before in (0, 2):
        model, plans = net(), Plans()
        for step in range(planned_before + 4):
            comes = step >= planned_before
            around = [beside if comes and first else nothing, beside if comes and not first else nothing]
            seen: list[Tensor] = []

            def run(model: nn.Module = model, around: list[Beside] = around, seen: list[Tensor] = seen) -> None:
                seen.append(trained_beside(model, torch.randn(6, 4).double(), *around))

            rows, probes = rows_of_step(model, run, plans, **options)
            row = rows["4", 0, "preactivation"]
            assert row["count"] == 12, (step, row["null_reason"])
            assert row["mean"] == pytest.approx(float(seen[0].mean()), rel=1e-6)
            assert bool(probes.notes) is comes
            if options.get("normalization", True):
                (own,) = normalizations(probes).values()
                assert own["count"] == 6
                assert own["theorem_error"] < 1e-6
            if options.get("gradients", True):
                norms = by_site(probes.blocks()[1])["4", 0, "preactivation"]
                assert norms["gradient_norm"] == pytest.approx(float((seen[0] / 6).norm()), rel=1e-6)


def test_an_evaluation_alone_is_recorded() -> None:
    """A loop that records nothing but evaluations, in eval mode or not: two passes are merged, as before."""
    for mode in (True, False):
        model, plans = net().train(mode), Plans()
        for _ in range(4):

            def run(model: nn.Module = model) -> None:
                with torch.no_grad():
                    model(torch.randn(6, 4).double())
                    model(torch.randn(6, 4).double())

            rows, probes = rows_of_step(model, run, plans, gradients=False, normalization=False)
            assert rows["4", 0, "preactivation"]["count"] == 24
            assert not probes.notes


def test_a_model_that_is_trained_in_eval_mode_counts() -> None:
    """Frozen normalisations, set by `model.eval()`; a validation without a graph beside it does not."""
    model, plans = net().eval(), Plans()
    for _ in range(4):
        x = torch.randn(6, 4).double()

        def run(x: Tensor = x) -> None:
            with torch.no_grad():
                model(torch.randn(40, 4).double())
            for part in x.chunk(2):
                model(part).square().mean().backward()

        rows, _ = rows_of_step(model, run, plans)
        assert rows["4", 0, "preactivation"]["count"] == 12
        assert rows["4", 0, "preactivation"]["mean"] == pytest.approx(float(model(x).detach().mean()), rel=1e-6)


def test_parts_that_are_called_one_after_the_other() -> None:
    """A frozen backbone without a graph, then a trained head: one pass, and its evaluation is another."""
    backbone, head = nn.Linear(4, 5).double(), nn.Linear(5, 2).double()
    model = nn.ModuleDict({"backbone": backbone, "head": head})
    for with_evaluation in (False, True):
        plans = Plans()
        for _ in range(3):

            def run(with_evaluation: bool = with_evaluation) -> None:
                with torch.no_grad():
                    features = backbone(torch.randn(6, 4).double())
                head(features).square().mean().backward()
                if with_evaluation:
                    with torch.no_grad():
                        head(backbone(torch.randn(40, 4).double()))

            rows, _ = rows_of_step(model, run, plans, normalization=False)
            assert rows["head", 0, "preactivation"]["count"] == 12
            own = rows["backbone", 0, "preactivation"]
            if with_evaluation:
                assert own["count"] is None
                assert "without a graph" in own["null_reason"]
            else:
                assert own["count"] == 30


def test_the_run_says_so_once(tmp_path: Path) -> None:
    """A validation in every block: one warning, one note, and the counts of the training's batch."""
    model = net().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    instruments = dict.fromkeys(("activations", "gradients", "normalization"), 1)
    recorder = ics.Recorder(model, to=tmp_path / "run", optimizer=optimizer, instruments=instruments, strict=True)
    with warnings.catch_warnings(record=True) as caught, recorder:
        warnings.simplefilter("always")
        for _ in range(4):
            x = torch.randn(6, 4)
            with recorder.step((x, None)):
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
                model.eval()
                with torch.no_grad():
                    model(torch.randn(40, 4))
                model.train()
    said = [str(each.message) for each in caught if issubclass(each.category, ics.MeasurementWarning)]
    assert len(said) == 1
    assert "do not count" in said[0]
    assert said[0] in json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
    frame = ics.open_run(tmp_path / "run").table("activations")
    assert set(frame[frame["site"] == "preactivation"]["count"]) <= {12, 30}


def test_a_statistic_of_your_own_is_of_the_training_too(tmp_path: Path) -> None:
    """A user's function on sites, with an evaluation before and after the training's two micro-batches."""
    model = net().float()
    own = ics.statistic("largest", lambda x: x.abs().amax())
    recorder = ics.Recorder(model, to=tmp_path / "run", instruments={own: 1}, strict=True)
    expected = []
    with pytest.warns(ics.MeasurementWarning, match="do not count"), recorder:
        for _ in range(2):
            with recorder.step((torch.zeros(1, 4), None)):
                evaluated(model.double())
                model.float()
                for _ in range(2):
                    output = model(torch.randn(6, 4))
                    expected.append(float(output.detach().abs().max()))
                    output.square().mean().backward()
                evaluated(model.double())
                model.float()
    frame = ics.open_run(tmp_path / "run").table("largest")
    found = frame[(frame["layer"] == "4") & (frame["site"] == "preactivation")].sort_values(["step", "forward"])
    assert list(found["forward"]) == [0, 1, 0, 1]
    assert list(found["largest"]) == pytest.approx(expected)
