"""Models of the user's own: found in the current folder, called with what they take, refused with one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ics.errors import SelectionError, UsageError
from ics.experiments import load_model
from ics.experiments.nets.loading import MOVED

SOURCE = """
from torch import nn

CONSTANT = 3

def small(num_classes, norm="none", *, hidden=2):
    layers = [nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5) if norm == "batch" else nn.Identity()]
    model = nn.Sequential(*layers, nn.Linear(5, num_classes))
    model.received = (num_classes, norm, hidden)
    return model

def plain(**settings):
    model = nn.Linear(1, 1)
    model.received = settings
    return model

def nothing():
    return "a net"

def needs(depth):
    return nn.Linear(depth, 1)

def fails():
    raise RuntimeError("no weights here")
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets.py").write_text(SOURCE)
    (tmp_path / "own_broken.py").write_text("import own_module_that_is_not_there\n")
    (tmp_path / "own_syntax.py").write_text("def net(:\n")
    monkeypatch.chdir(tmp_path)
    for name in ("own_nets", "own_broken", "own_syntax"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_function_in_the_current_folder_gets_what_it_has_parameters_for() -> None:
    path = list(sys.path)
    model = load_model("own_nets:small", input_shape=(3, 2, 2), num_outputs=4, norm="batch", hidden=(7,), init="glorot")
    assert isinstance(model, nn.Sequential)
    assert model.received == (4, "batch", (7,))
    assert sys.path == path


def test_keyword_arguments_receive_nothing_unasked() -> None:
    assert load_model("own_nets:plain", init="glorot").received == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_absent:net", "no such module"),
        ("own_nets.deeper:net", "no such module"),
        ("own_broken:net", "importing it raised ModuleNotFoundError"),
        ("own_syntax:net", "importing it raised SyntaxError"),
        ("own_nets:CONSTANT", "is a int, expected a function"),
        ("own_nets:nothing", "returned a str, expected a torch.nn.Module"),
        ("own_nets:needs", "missing 1 required positional argument: 'depth'"),
        ("own_nets:fails", "no weights here"),
        ("own_nets.py:small", "package.module:function"),
        ("nets/own:small", "package.module:function"),
        ("own_nets:", "package.module:function"),
    ],
)
def test_mistakes_get_one_sentence(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_a_norm_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="no parameter `norm`"):
        load_model("own_nets:plain", norm="batch")


def test_near_matches() -> None:
    with pytest.raises(SelectionError, match="'small'"):
        load_model("own_nets:smal")
    with pytest.raises(SelectionError, match=r"'resnet18'.*package.module:function"):
        load_model("resnet19")


@pytest.mark.parametrize(("stored", "now"), MOVED.items())
def test_a_run_of_an_older_version_names_a_model_by_its_old_path(stored: str, now: str) -> None:
    states = []
    for name in (stored, now):
        torch.manual_seed(0)
        states.append(load_model(name, input_shape=(3, 16, 16), norm="batch").state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)
