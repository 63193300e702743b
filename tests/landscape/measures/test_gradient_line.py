from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from ics.errors import SelectionError, UsageError
from ics.landscape import Objective, default_etas, gradient_line, make_transition
from ics.records import Layer
from tests.landscape.nets import NETS, take_step
from tests.reference.gradient_shift_kpass import as_vector, loss_and_gradients


def rows_of(block):
    names = list(block.columns)
    return [dict(zip(names, cells, strict=True)) for cells in zip(*block.columns.values(), strict=True)]


def quadratic(hessian, point):
    """The transition of one gradient step on L = w.Hw/2 at `point`, learning rate 0.1."""
    model = nn.Linear(len(point), 1, bias=False).double()
    h = torch.from_numpy(hessian)
    objective = Objective(model, lambda model, batch: (model.weight @ h @ model.weight.T).sum() / 2, None)
    w = torch.from_numpy(point)[None]
    return make_transition(objective, before={"weight": w}, after={"weight": w - 0.1 * w @ h}, learning_rate=0.1)


def random_hessian(size=5, seed=0):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return basis @ np.diag(rng.uniform(0.5, 8.0, size)) @ basis.T, rng.normal(size=size)


ETAS = [0.01, 0.1, 1.0]


@pytest.mark.parametrize("seed", range(5))
def test_on_a_quadratic_beta_is_the_hessian_along_the_gradient_and_never_above_its_largest_eigenvalue(seed):
    h, w = random_hessian(seed=seed)
    g = h @ w
    transition = quadratic(h, w)
    for row in rows_of(gradient_line(transition, etas=ETAS))[1:]:
        beta = row["gradient_change_l2"] / row["distance"]
        assert beta == pytest.approx(np.linalg.norm(h @ g) / np.linalg.norm(g), rel=1e-12)
        assert beta <= np.linalg.eigvalsh(h).max() * (1 + 1e-12)
    for row in rows_of(gradient_line(transition, etas=ETAS, directions=("random",), num_random=4)):
        assert row["gradient_change_l2"] <= np.linalg.eigvalsh(h).max() * row["distance"] * (1 + 1e-12)


def test_on_a_quadratic_beta_along_an_eigenvector_is_its_eigenvalue():
    h, _ = random_hessian()
    eigenvalues, vectors = np.linalg.eigh(h)
    for value, point in zip(eigenvalues, vectors.T, strict=True):
        for row in rows_of(gradient_line(quadratic(h, 3 * point), etas=ETAS))[1:]:
            assert row["gradient_change_l2"] / row["distance"] == pytest.approx(value, rel=1e-12)


def test_on_a_quadratic_the_whole_profile_is_known():
    h, w = random_hessian()
    g = h @ w
    loss = w @ h @ w / 2
    for row in rows_of(gradient_line(quadratic(h, w), etas=ETAS))[1:]:
        eta = row["eta"]
        wanted = {
            "distance": eta * np.linalg.norm(g),
            "loss": loss - eta * g @ g + eta**2 * g @ h @ g / 2,
            "gradient_norm": np.linalg.norm(g),
            "predicted_change": -eta * g @ g,
            "taylor_error": eta * (g @ h @ g) / (2 * g @ g),
            "learning_rate": 0.1,
        }
        for column, value in wanted.items():
            assert row[column] == pytest.approx(value, rel=1e-10), column
        assert row["null_reason"] is None


def test_a_small_step_along_the_gradient_descends():
    rows = rows_of(gradient_line(take_step("residual").transition(), etas=[1e-3]))
    assert rows[1]["loss"] < rows[0]["loss"]
    assert rows[1]["predicted_change"] < 0


@pytest.mark.parametrize("name", NETS)
def test_the_profile_equals_the_reference(name):
    taken = take_step(name, dtype=torch.float64)
    transition = taken.transition(learning_rate=0.1)
    names = list(taken.before)
    arguments = (taken.model, taken.loss_fn, taken.batch)
    loss, present = loss_and_gradients(*arguments, taken.before, names, **taken.circumstances)
    g = as_vector(present, names, taken.before)
    for row in rows_of(gradient_line(transition, etas=[0.05, 0.4], directions=("gradient", "update")))[:]:
        if row["direction"] == "gradient":
            step = {name: -row["eta"] * present[name] for name in names}
        else:
            step = {name: row["eta"] / 0.1 * (taken.after[name] - taken.before[name]) for name in names}
        d = as_vector(step, names, taken.before)
        point = {name: taken.before[name] + step[name] for name in names}
        loss_there, there = loss_and_gradients(*arguments, point, names, **taken.circumstances)
        assert row["loss"] == pytest.approx(float(loss_there), rel=1e-12)
        change = np.linalg.norm(as_vector(there, names, taken.before) - g)
        assert row["gradient_change_l2"] == pytest.approx(change, rel=1e-10)
        assert row["distance"] == pytest.approx(np.linalg.norm(d), rel=1e-12)
        assert row["predicted_change"] == pytest.approx(g @ d, rel=1e-10)
        if row["eta"]:
            error = abs(float(loss_there) - float(loss) - g @ d) / abs(g @ d)
            assert row["taylor_error"] == pytest.approx(error, rel=1e-8)


def test_the_update_at_the_learning_rate_is_the_point_after_the_step():
    taken = take_step("residual")
    block = gradient_line(taken.transition(learning_rate=0.1), etas=[0.1], directions=("update",))
    there = rows_of(block)[1]
    assert there["loss"] == pytest.approx(float(taken.objective()(taken.after).loss), rel=1e-6)


def test_random_directions_are_as_long_as_the_gradient_step_and_reproducible():
    taken = take_step("reused", dtype=torch.float64)
    options = {"etas": [0.2], "directions": ("gradient", "random"), "num_random": 2}
    block = gradient_line(taken.transition(), **options)
    rows = [row for row in rows_of(block) if row["eta"]]
    assert [(row["direction"], row["draw"]) for row in rows] == [("gradient", 0), ("random", 0), ("random", 1)]
    assert all(row["distance"] == pytest.approx(rows[0]["distance"], rel=1e-12) for row in rows)
    assert len({row["loss"] for row in rows}) == 3
    torch.rand(5)
    assert gradient_line(taken.transition(), **options).columns == block.columns
    assert gradient_line(taken.transition(), seed=7, **options).columns["loss"][-1] != rows[-1]["loss"]


def test_the_point_itself_is_the_first_row_once():
    h, w = random_hessian()
    rows = rows_of(gradient_line(quadratic(h, w), etas=[0.1, 0.0, 0.1]))
    assert [row["eta"] for row in rows] == [0.0, 0.1]
    assert rows[0]["loss"] == pytest.approx(w @ h @ w / 2)
    assert (rows[0]["distance"], rows[0]["gradient_change_l2"], rows[0]["predicted_change"]) == (0, 0, 0)
    assert rows[0]["taylor_error"] is None
    assert "the point itself" in rows[0]["null_reason"]


def test_no_taylor_error_where_nothing_is_predicted():
    h, _ = random_hessian()
    row = rows_of(gradient_line(quadratic(h, np.zeros(5)), etas=[0.1]))[1]
    assert row["taylor_error"] is None
    assert "predicted change is 0" in row["null_reason"]


def test_no_taylor_error_where_the_loss_cannot_resolve_the_predicted_change():
    taken = take_step("residual")
    row = rows_of(gradient_line(taken.transition(), etas=[1e-9]))[1]
    assert row["predicted_change"] < 0
    assert row["taylor_error"] is None
    assert "resolution of the loss" in row["null_reason"]


def test_a_learning_rate_of_0_leaves_the_update_null_and_the_gradient_measured():
    taken = take_step("reused")
    transition = taken.transition(after={}, learning_rate=0.0)
    rows = rows_of(gradient_line(transition, etas=[0.1], directions=("update", "gradient")))
    assert rows[1]["loss"] is rows[1]["distance"] is None
    assert "learning rate of 0" in rows[1]["null_reason"]
    assert rows[3]["loss"] > 0
    assert default_etas(0.0) == ()


def layer_of(index, name, *parameters):
    return Layer(name, index, "Linear", (name,), parameters[:1], parameters, (1,), 1)


def block_diagonal(seen):
    """L = u.Au/2 + v.Bv/2 for layers u and v, and their layers; A and B are the blocks of the Hessian.

    `seen` fills with the parameters of every evaluation.
    """
    (a, u), (b, v) = random_hessian(3, seed=1), random_hessian(4, seed=2)
    model = nn.ModuleDict({"u": nn.Linear(3, 1, bias=False), "v": nn.Linear(4, 1, bias=False)}).double()
    blocks = {"u": torch.from_numpy(a), "v": torch.from_numpy(b)}

    def loss_fn(model, seen):
        seen.append({name: value.detach().clone() for name, value in model.named_parameters()})
        return sum((model[name].weight @ h @ model[name].weight.T).sum() / 2 for name, h in blocks.items())

    before = {"u.weight": torch.from_numpy(u)[None], "v.weight": torch.from_numpy(v)[None]}
    after = {name: value - 0.1 * value @ blocks[name[0]] for name, value in before.items()}
    transition = make_transition(Objective(model, loss_fn, seen), before=before, after=after, learning_rate=0.1)
    return transition, {"u": (a, u), "v": (b, v)}, [layer_of(0, "u", "u.weight"), layer_of(1, "v", "v.weight")]


@pytest.mark.parametrize("direction", ["gradient", "update"])
def test_with_one_layer_moved_beta_is_that_of_its_block_of_the_hessian(direction):
    transition, blocks, layers = block_diagonal([])
    rows = rows_of(gradient_line(transition, etas=ETAS, directions=(direction,), layers=layers))
    assert [(row["layer"], row["eta"]) for row in rows] == [
        (name, eta) for name in ("(all)", "u", "v") for eta in (0.0, *ETAS)
    ]
    start = sum(w @ h @ w / 2 for h, w in blocks.values())
    for row in rows:
        if row["layer"] != "(all)" and row["eta"]:
            h, w = blocks[row["layer"]]
            g, eta = h @ w, row["eta"]
            assert row["gradient_norm"] == pytest.approx(np.linalg.norm(g), rel=1e-12)
            assert row["distance"] == pytest.approx(eta * np.linalg.norm(g), rel=1e-12)
            assert row["loss"] == pytest.approx(start - eta * g @ g + eta**2 * g @ h @ g / 2, rel=1e-10)
            beta = row["gradient_change_l2"] / row["distance"]
            assert beta == pytest.approx(np.linalg.norm(h @ g) / np.linalg.norm(g), rel=1e-12)


@pytest.mark.parametrize("name", ["residual", "reused"])
def test_the_predicted_changes_of_all_layers_add_up_to_that_of_the_whole_net(name):
    taken = take_step(name, dtype=torch.float64)
    groups = dict.fromkeys(name.split(".")[0] for name in taken.before)
    layers = [
        layer_of(index, group, *(name for name in taken.before if name.split(".")[0] == group))
        for index, group in enumerate(groups)
    ]
    directions = ("gradient", "update")
    transition = taken.transition(learning_rate=0.1)
    rows = rows_of(gradient_line(transition, etas=[0.05], directions=directions, layers=layers))
    for direction in directions:
        found = {row["layer"]: row["predicted_change"] for row in rows if row["eta"] and row["direction"] == direction}
        whole = found.pop("(all)")
        assert set(found) == set(groups)
        assert sum(found.values()) == pytest.approx(whole, rel=1e-10)
    alone = rows_of(gradient_line(transition, etas=[0.05], directions=directions))
    assert alone == rows[: len(alone)]


def test_only_the_chosen_layer_moves_and_a_random_direction_is_as_long_as_its_gradient_step():
    seen = []
    transition, _, layers = block_diagonal(seen)
    block = gradient_line(transition, etas=[0.1], directions=("gradient", "random"), layers=layers[1:])
    for values in seen[-2:]:
        assert torch.equal(values["u.weight"], transition.before["u.weight"])
        assert not torch.equal(values["v.weight"], transition.before["v.weight"])
    lengths = [row["distance"] for row in rows_of(block) if row["layer"] == "v" and row["eta"]]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-12)


def test_a_layer_with_nothing_trained_has_null_rows_that_say_why():
    transition, _, layers = block_diagonal([])
    rows = rows_of(gradient_line(transition, etas=[0.1], layers=[*layers, layer_of(2, "frozen", "w")]))[-2:]
    assert [(row["layer"], row["eta"], row["loss"], row["gradient_norm"]) for row in rows] == [
        ("frozen", 0.0, None, None),
        ("frozen", 0.1, None, None),
    ]
    assert all("no trained parameter" in row["null_reason"] for row in rows)


def test_frozen_parameters_stay():
    taken = take_step("reused")
    taken.model.embed.requires_grad_(False)
    seen = []

    def loss_fn(model, batch):
        seen.append(model.embed.weight.detach().clone())
        return taken.loss_fn(model, batch)

    transition = taken.transition(objective=taken.objective(loss_fn=loss_fn), learning_rate=0.1)
    gradient_line(transition, etas=[0.1], directions=("gradient", "update", "random"))
    assert len(seen) == 4
    assert all(torch.equal(weight, taken.before["embed.weight"]) for weight in seen)


def test_losses_that_are_not_finite_are_stored():
    row = rows_of(gradient_line(quadratic(np.ones((1, 1)), np.ones(1)), etas=[1e200]))[1]
    assert row["loss"] == row["taylor_error"] == math.inf
    assert row["null_reason"] is None


def test_default_etas_span_half_to_four_learning_rates():
    etas = default_etas(0.1)
    assert len(etas) == 8
    assert (etas[0], etas[-1]) == (pytest.approx(0.05), pytest.approx(0.4))
    assert np.diff(np.log(etas)) == pytest.approx(math.log(8) / 7)


def test_mistakes_are_one_sentence():
    h, w = random_hessian()
    transition = quadratic(h, w)
    with pytest.raises(UsageError, match=r"expect a learning rate, got none; type etas"):
        default_etas(None)
    with pytest.raises(UsageError, match="finite step sizes, got nan"):
        gradient_line(transition, etas=[math.nan])
    with pytest.raises(SelectionError, match="did you mean 'gradient'"):
        gradient_line(transition, etas=[1.0], directions=("gradeint",))
    without = make_transition(transition.objective, before=transition.before, after=transition.after)
    with pytest.raises(UsageError, match="learning_rate="):
        gradient_line(without, etas=[1.0], directions=("update",))
    with pytest.raises(SelectionError, match="no parameter is named 'bias'"):
        make_transition(transition.objective, before=transition.before, after={"bias": torch.ones(1)})
    with pytest.raises(UsageError, match=r"weight is expected to have shape \(1, 5\)"):
        make_transition(transition.objective, before=transition.before, after={"weight": torch.ones(5, 1)})
