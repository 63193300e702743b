"""The findings in sentences: right whichever way they go."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ics
from ics import analysis
from tests.analysis.synthetic import line_frame, make_run, shift_frame

STEPS = (0, 10, 20)
SMOOTH = {"shift": 0.2, "curvature": 2.0, "drift": 0.2}
ROUGH = {"shift": 0.9, "curvature": 9.0, "drift": 2.0}


def headline_of(folder: Path, seeds: int = 3, **nets: dict) -> tuple[str, str, str]:
    for net, how in nets.items():
        for seed in range(seeds):
            make_run(folder, net, seed, **{"steps": STEPS, **how})
    return analysis.headline(ics.open_runs([folder / f"{net}-{seed}" for net in nets for seed in range(seeds)]))


@pytest.mark.parametrize(("standard", "bn", "smaller"), [(ROUGH, SMOOTH, "bn"), (SMOOTH, ROUGH, "standard")])
def test_each_sentence_names_the_net_with_the_smaller_number(
    tmp_path: Path, standard: dict, bn: dict, smaller: str
) -> None:
    shift, landscape, activations = headline_of(tmp_path, standard=standard, bn=bn)
    assert f": less in {smaller} at both measured steps (bn / standard = " in shift
    assert f": smoother in {smaller} at all 3 measured steps (" in landscape
    assert f": less in {smaller} (" in activations
    other = {"bn": "standard", "standard": "bn"}[smaller]
    text = " ".join((shift, landscape, activations))
    assert not re.search(rf"(less|smoother|lower) in {other}\b", text)
    assert "3 seeds" in text


def test_the_numbers_are_those_of_compare(tmp_path: Path) -> None:
    sentences = headline_of(tmp_path, standard=ROUGH, bn=SMOOTH)
    runs = ics.open_runs(tmp_path)
    table = analysis.compare(runs[3:], runs[:3]).set_index("measure")
    for sentence, measure in zip(sentences, ("shift_over_floor", "beta", "mean_shift"), strict=True):
        row = table.loc[measure]
        for value in (row["a"], row["b"], row["ratio"]):
            assert f"{value:.3g}" in sentence
    assert "9 in standard and 2 in bn" in sentences[1]
    assert "(0.45 and 0.1 of 2/lr)" in sentences[1]
    assert "step sizes 0.05 to 0.4" in sentences[1]


def test_curves_that_cross_are_said_to_cross(tmp_path: Path) -> None:
    early, late = line_frame(curvature=2.0, steps=(0, 10)), line_frame(curvature=90.0, steps=(20,))
    make_run(tmp_path, "standard", 0, steps=STEPS, frames={"gradient_line": pd.concat([early, late])})
    make_run(tmp_path, "bn", 0, steps=STEPS, curvature=5.0)
    _, landscape, _ = analysis.headline(ics.open_runs([tmp_path / "standard-0", tmp_path / "bn-0"]))
    assert "2 in standard and 5 in bn (" in landscape
    assert ": smoother in standard at 2 of 3 measured steps" in landscape


def test_seeds_that_disagree_are_not_told_apart(tmp_path: Path) -> None:
    for seed, (a, b) in enumerate([(1.0, 2.0), (2.0, 1.0), (1.5, 1.5)]):
        make_run(tmp_path, "standard", seed, steps=STEPS, curvature=a)
        make_run(tmp_path, "bn", seed, steps=STEPS, curvature=b)
    _, landscape, _ = analysis.headline(ics.open_runs(tmp_path))
    assert "the seeds do not tell them apart" in landscape
    assert "smoother" not in landscape


def test_one_seed_is_said_to_be_one(tmp_path: Path) -> None:
    for sentence in headline_of(tmp_path, seeds=1, standard=ROUGH, bn=SMOOTH):
        assert "one run on a side, so no interval" in sentence
        assert "95 %" not in sentence


def test_a_single_net_is_described_and_compared_with_nothing(tmp_path: Path) -> None:
    sentences = headline_of(tmp_path, seeds=1, bn=SMOOTH)
    assert "2 in bn (0.1 of 2/lr), median over steps." in sentences[1]
    assert not any(word in sentence for word in ("less", "smoother", "lower") for sentence in sentences)


def test_three_nets_are_listed_and_the_smallest_named(tmp_path: Path) -> None:
    middle = {"shift": 0.5, "curvature": 5.0, "drift": 1.0}
    _, landscape, _ = headline_of(tmp_path, seeds=1, standard=ROUGH, noisy=middle, bn=SMOOTH)
    assert "9 in standard, 5 in noisy and 2 in bn (0.45, 0.25 and 0.1 of 2/lr)" in landscape
    assert landscape.endswith(": smoothest in bn.")


def test_without_a_floor_the_relative_shift_speaks(tmp_path: Path) -> None:
    frames = {net: shift_frame(shift=shift, steps=(0,)) for net, shift in (("standard", 0.9), ("bn", 0.2))}
    for net, frame in frames.items():
        make_run(tmp_path, net, 0, steps=(0,), frames={"gradient_shift": frame})
    shift, _, activations = analysis.headline(ics.open_runs(tmp_path))
    assert "less in bn" in shift
    assert "no noise floor was recorded" in shift
    assert activations == "Activations: not recorded at two steps (instrument activations)."


def test_what_was_not_recorded_is_said(tmp_path: Path) -> None:
    nothing = {"without": ["gradient_shift", "gradient_line", "activations"]}
    shift, landscape, activations = headline_of(tmp_path, seeds=1, standard=nothing, bn=nothing)
    assert shift == "Gradient shift: not recorded (instrument gradient_shift)."
    assert landscape == "Loss landscape: not recorded (instrument gradient_line)."
    assert activations.startswith("Activations: not recorded")


def test_a_net_without_a_value_is_not_ranked(tmp_path: Path) -> None:
    shift, _, _ = headline_of(tmp_path, seeds=1, standard={"without": ["gradient_shift"]}, bn=SMOOTH)
    assert "not known in standard" in shift
    assert "less in" not in shift


def test_an_overflowing_net_is_not_called_smooth(tmp_path: Path) -> None:
    frame = line_frame(steps=STEPS)
    frame.loc[frame["eta"] > 0.2, ["loss", "gradient_change_l2"]] = np.nan
    for net, how in (("standard", {"frames": {"gradient_line": frame}}), ("bn", SMOOTH)):
        make_run(tmp_path, net, 0, steps=STEPS, **how)
    _, landscape, _ = analysis.headline(ics.open_runs(tmp_path))
    assert "infinite in standard" in landscape
    assert "smoother in bn" in landscape


def test_no_common_step_size_is_said(tmp_path: Path) -> None:
    _, landscape, _ = headline_of(tmp_path, seeds=1, standard=ROUGH | {"rate": 10.0}, bn=SMOOTH)
    assert landscape.startswith("Loss landscape: no step size was probed in all nets")
    assert "smoother" not in landscape
