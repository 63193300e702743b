"""Recipes hold the published settings, in both variants, and take any change."""

from __future__ import annotations

import pytest

from ics.errors import SelectionError, UsageError
from ics.experiments import LABELS, RECIPES, demo_configs, prepare, recipe
from ics.experiments.nets.norms import NORMS


def test_every_normalisation_has_a_label_of_its_own() -> None:
    assert LABELS.keys() == NORMS.keys()
    assert len(set(LABELS.values())) == len(LABELS)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("norm", LABELS)
def test_every_recipe_is_whole(name: str, norm: str) -> None:
    config = recipe(name, norm=norm)
    assert (config.recipe, config.norm, config.net) == (name, norm, LABELS[norm])
    assert config.replace(norm="none", net="standard") == recipe(name)
    assert set(config.instruments) == {"activations", "gradients", "normalization", "gradient_shift", "gradient_line"}
    document = RECIPES[name].__doc__ or ""
    assert "Source:" in document
    assert "Cost:" in document


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vgg16-cifar", {"learning_rate": 0.1, "batch_size": 128, "steps": 15_000, "init": "glorot", "momentum": 0.0}),
        ("vgg16-cifar", {"optimizer": "sgd", "data": "cifar10", "weight_decay": 0.0, "line_range": (0.5, 4.0)}),
        ("mnist-sigmoid", {"hidden": (100, 100, 100), "activation": "sigmoid", "steps": 50_000, "batch_size": 60}),
        ("deep-linear", {"learning_rate": 1e-6, "batch_size": None, "steps": 10_000, "loss": "sum_squared_error"}),
        ("deep-linear", {"init": "glorot", "data": "gaussian", "line_range": (0.01, 30.0)}),
    ],
)
def test_published_settings(name: str, settings: dict[str, object]) -> None:
    config = recipe(name).as_dict()
    expected = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    assert {key: config[key] for key in settings} == expected


def test_changes_are_taken_and_mistakes_named() -> None:
    config = recipe("vgg11-cifar", norm="batch", net="BN, lr 0.5", learning_rate=0.5, seed=3)
    assert (config.net, config.learning_rate, config.seed, config.model) == ("BN, lr 0.5", 0.5, 3, "vgg11")
    with pytest.raises(SelectionError, match="'vgg11-cifar'"):
        recipe("vgg11-cifr")
    with pytest.raises(SelectionError, match="'batch_size'"):
        recipe("digits-mlp", batchsize=3)
    with pytest.raises(SelectionError, match="no norm is named 'bacth'; did you mean 'batch'"):
        recipe("digits-mlp", norm="bacth")


def test_the_demonstration_compares_two_nets_over_seeds() -> None:
    configs = demo_configs(num_seeds=2)
    assert [(config.net, config.norm, config.seed) for config in configs] == [
        ("standard", "none", 0),
        ("standard", "none", 1),
        ("BatchNorm", "batch", 0),
        ("BatchNorm", "batch", 1),
    ]
    with pytest.raises(UsageError, match="num_seeds"):
        demo_configs(num_seeds=0)


@pytest.mark.parametrize("name", ["digits-mlp", "digits-sigmoid", "deep-linear"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_recipes_that_need_no_files_can_be_prepared_and_learn(name: str, norm: str) -> None:
    experiment = prepare(recipe(name, norm=norm, steps=200))
    losses = []
    for batch in experiment.batches():
        experiment.optimizer.zero_grad()
        loss = experiment.loss_fn(experiment.model, batch)
        loss.backward()
        experiment.optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < sum(losses[:20])
