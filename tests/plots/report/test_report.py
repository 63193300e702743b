"""The report: one file, nothing to fetch, everything said."""

import base64
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

import ics
from ics import analysis, plots
from ics.errors import UsageError
from tests.analysis.synthetic import line_frame, make_run
from tests.analysis.synthetic_tables import attribution_frame, curvature_frame, drift_frame, normalization_frame

VOID = {"meta", "img"}


class PageParser(HTMLParser):
    """Checks that every tag is closed, and keeps what the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)


def read_page(path: Path) -> tuple[str, PageParser]:
    text = path.read_text(encoding="utf-8")
    parsed = PageParser()
    parsed.feed(text)
    assert parsed.open == []
    return text, parsed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs")
    layers = [f"features.{number}" for number in range(20)]
    for seed in (0, 1):
        make_run(made, "standard", seed, layers=layers, steps=(0, 10), shift=0.8)
        make_run(made, "bn", seed, layers=layers, steps=(0, 10), notes=["gradient_line switched off at step 5: <Oops>"])
    return made


@pytest.fixture(scope="module")
def written(folder: Path) -> Path:
    return plots.write_report(ics.open_runs(folder), folder / "new" / "report.html")


def test_the_page_is_whole_and_fetches_nothing(written: Path) -> None:
    text, parsed = read_page(written)
    assert parsed.headings == [
        "Runs",
        "Training",
        "Gradient shift",
        "Loss landscape",
        "Activations",
        "Comparison",
        "What did it cost",
    ]
    assert all(source.startswith("data:image/svg+xml;base64,") for source in parsed.sources)
    assert not parsed.tags & {"script", "link", "iframe"}
    assert "@import" not in text
    assert "url(" not in text
    assert len(text) < 5_000_000


def test_every_figure_is_a_valid_drawing_with_a_description(written: Path) -> None:
    text, parsed = read_page(written)
    assert len(parsed.sources) == 6
    for source in parsed.sources:
        drawing = ElementTree.fromstring(base64.b64decode(source.partition(",")[2]))
        assert drawing.tag.endswith("svg")
    assert len(re.findall(r'<img alt="[^"]{8,}"', text)) == 6


def test_findings_runs_notes_and_comparison_are_there(written: Path, folder: Path) -> None:
    text = unescape(read_page(written)[0])
    runs = ics.open_runs(folder)
    for sentence in analysis.headline(runs):
        assert sentence in text
    for run in runs:
        assert f'<td class="name">{run.name}</td>' in text
    assert "bn-0: gradient_line switched off at step 5: <Oops>" in text
    assert "&lt;Oops&gt;" in read_page(written)[0]
    for row in analysis.compare(runs[2:], runs[:2]).itertuples():
        assert row.meaning in text
    assert "noise floor (dashed) is the same measure" in text
    assert "covers less than 95 %" in text


def test_one_run_and_missing_tables(tmp_path: Path) -> None:
    run = make_run(tmp_path, "bn", None, steps=(0,), without=["gradient_line", "activations"], state="failed")
    text, parsed = read_page(plots.write_report(run, tmp_path / "report.html"))
    assert "Not recorded: no run holds rows of the table gradient_line." in text
    assert "Not recorded: no run holds rows of the table activations." in text
    assert "its state is failed, not completed" in text
    assert "A table of ratios is made for two nets; this report holds 1." in text
    assert len(parsed.sources) == 3


def test_further_tables_have_a_section_where_they_were_recorded(tmp_path: Path) -> None:
    layers, steps = [f"features.{number}" for number in range(20)], (0, 10)
    for net in ("standard", "bn"):
        for seed in (0, 1):
            how = {"steps": steps, "layers": layers, "seed": seed}
            frames = {"drift": drift_frame(**how), "curvature": curvature_frame(steps=steps, seed=seed)}
            frames |= {"attribution": attribution_frame(**how), "normalization": normalization_frame(**how)}
            if net == "standard":
                del frames["normalization"]
            make_run(tmp_path, net, seed, steps=steps, layers=layers, frames=frames, without=["activations"])
    text, parsed = read_page(plots.write_report(ics.open_runs(tmp_path), tmp_path / "report.html"))
    assert parsed.headings == [
        *("Runs", "Training", "Gradient shift", "Where the shift comes from", "Loss landscape", "Curvature"),
        *("Activations", "Same-batch drift", "Normalisation", "Comparison", "What did it cost"),
    ]
    assert len(parsed.sources) == 4 + 5  # drift before and after the normalisation
    assert "Not shown" not in text
    assert "Recorded too" not in text
    for said in (
        "layers acting together",
        "dashed line 2/lr",
        "between the two halves of that batch",
        "at most 0 of it",
    ):
        assert said in text
    assert len(text) < 5_000_000


def test_layers_moved_alone_are_named_and_not_drawn(tmp_path: Path) -> None:
    lines = pd.concat([line_frame(steps=(0, 10)), line_frame(steps=(0, 10), curvature=9.0).assign(layer="features.3")])
    with_layers = make_run(tmp_path, "a", 0, steps=(0, 10), without=["activations"], frames={"gradient_line": lines})
    text = unescape(read_page(plots.write_report(with_layers, tmp_path / "report.html"))[0])
    assert 'ics.plots.landscape(frame, layer="features.3")' in text
    assert analysis.headline(with_layers)[1] in text
    assert "effective beta was 5 " in text


def test_drift_at_another_site_alone_is_drawn(tmp_path: Path) -> None:
    frames = {"drift": drift_frame(steps=(0, 10)).query("site == 'scaled'").assign(site="activation")}
    run = make_run(tmp_path, "bn", 0, steps=(0, 10), frames=frames, without=["activations"])
    text, parsed = read_page(plots.write_report(run, tmp_path / "report.html"))
    assert "same-batch drift at the site activation" in text
    assert "Curvature" not in parsed.headings


def test_a_section_that_cannot_be_made_says_why_and_the_others_stay(tmp_path: Path) -> None:
    run = make_run(tmp_path, "bn", 0, steps=(0, 10))
    part = next((run.path / "gradient_line").glob("part-*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    text, parsed = read_page(plots.write_report(ics.open_run(run.path), tmp_path / "report.html"))
    assert "Not shown: " in text
    assert part.name in text
    assert "Gradient shift" in parsed.headings
    assert len(parsed.sources) == 5


def test_runs_of_one_net_at_several_learning_rates_are_drawn_apart(tmp_path: Path) -> None:
    for seed, rate in enumerate((0.1, 0.5)):
        make_run(tmp_path, "bn", seed, steps=(0, 10), rate=rate, without=["activations"])
    text = read_page(plots.write_report(ics.open_runs(tmp_path), tmp_path / "report.html"))[0]
    assert "Not shown" not in text
    assert "bn, learning_rate 0.1" in text
    assert "bn, learning_rate 0.5" in text


def test_names_are_escaped_and_reports_are_reproducible(tmp_path: Path) -> None:
    run = make_run(tmp_path, "<b>&", 0, steps=(0, 10), without=["activations"])
    first = plots.write_report(run, tmp_path / "one.html").read_bytes()
    assert b"<b>" not in first
    assert b"&lt;b&gt;&amp;" in first
    assert plots.write_report(run, tmp_path / "two.html").read_bytes() == first


def test_mistakes(tmp_path: Path) -> None:
    run = make_run(tmp_path, "bn", 0, steps=(0,))
    with pytest.raises(UsageError, match=r"got the folder .*; type .*report\.html"):
        plots.write_report(run, tmp_path)
    with pytest.raises(UsageError, match="expected one opened run or more"):
        plots.write_report([], tmp_path / "report.html")
