from __future__ import annotations

from ics.integrations import to_tensorboard
from ics.store import Writer, open_run


class Notebook:
    """Stands in for a SummaryWriter and keeps what it was given."""

    def __init__(self) -> None:
        self.scalars = {}

    def add_scalar(self, tag, scalar_value, global_step):
        self.scalars[tag, global_step] = scalar_value


def test_every_number_arrives_under_its_tag_and_nulls_do_not(tmp_path):
    writer = Writer(tmp_path / "run", info={})
    writer.append("steps", {"step": [0, 1], "loss": [2.5, 1.5], "accuracy": [None, 0.75]})
    shift = {"step": [1, 1], "layer": ["conv", "head"], "layer_index": [0, 1], "parameters": ["weight", "weight"]}
    writer.append("gradient_shift", shift | {"shift_l2": [0.0, 0.5], "shift_cosine": [1.0, None]})
    writer.close()
    notebook = Notebook()
    count = to_tensorboard(open_run(tmp_path / "run"), notebook)
    assert notebook.scalars == {
        ("steps/loss", 0): 2.5,
        ("steps/loss", 1): 1.5,
        ("steps/accuracy", 1): 0.75,
        ("gradient_shift/conv/weight/shift_l2", 1): 0.0,
        ("gradient_shift/conv/weight/shift_cosine", 1): 1.0,
        ("gradient_shift/head/weight/shift_l2", 1): 0.5,
    }
    assert count == len(notebook.scalars)
