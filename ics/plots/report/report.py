"""The report: what a set of runs shows, on one HTML page that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ics import analysis
from ics.analysis.comparison import FEW_SEEDS
from ics.analysis.run_tables import Named, as_runs, named, nets_of, read
from ics.errors import IcsError
from ics.plots import html_page
from ics.plots.report import sections
from ics.plots.report.sections import Subject, absent
from ics.store import Run

_DRAWN = {"steps", "gradient_shift", "gradient_line", "activations", *sections.OPTIONAL}


def write_report(runs: Run | Iterable[Run], path: str | os.PathLike[str]) -> Path:
    """Write what the runs show to one HTML file with all figures inside; return its path.

    The three sentences of `ics.analysis.headline` come first. Then follow the runs with their warnings, training,
    gradient shift, landscape, activations, the comparison if there are two nets, and the cost of measuring.
    Attribution, curvature, drift and normalisation have sections where they were recorded. The page says which of the
    other tables no run has recorded.

    Args:
        runs: one opened run or several, of any nets and seeds.
        path: file to write; its folder is made if missing.

    Raises:
        UsageError: no runs were given, or the path is a folder.

    Example:
        >>> write_report(ics.open_runs("runs/*"), "report.html")   # doctest: +SKIP
    """
    subject = Subject.of(as_runs(runs))
    target = html_page.destination(path, example="report.html")
    nets = list(nets_of(subject.runs))
    title = f"Internal covariate shift and landscape: {', '.join(nets[:4])}{', …' if len(nets) > 4 else ''}"
    body = [
        f"<h1>{html_page.escape(title)}</h1>",
        *(_guarded(name, build, subject) for name, build in _SECTIONS.items()),
    ]
    target.write_text(html_page.page(title, body), encoding="utf-8")
    return target


def _guarded(title: str, build: Callable[[Subject], str], subject: Subject) -> str:
    """Build a section. One that cannot be built says why, and the others are not affected."""
    try:
        return build(subject)
    except IcsError as error:  # nothing wider: any other error is a bug, which a note on a page would hide
        return html_page.section(title, "", html_page.paragraph(f"Not shown: {error}", kind="warning"))


def _findings(subject: Subject) -> str:
    sentences = html_page.items(analysis.headline(subject.runs), kind="findings", ordered=True)
    count = f"{len(subject.runs)} run{'s' if len(subject.runs) > 1 else ''}"
    return html_page.paragraph(f"What {count} showed, as measured:") + sentences


def _runs(subject: Subject) -> str:
    rows = pd.DataFrame([_describe(one) for one in named(subject.runs)])
    shown = html_page.table(rows.loc[:, rows.notna().any()], swatches=subject.colors)
    notes = [f"{one.name}: {text}" for one in named(subject.runs) for text in _notes(one.run)]
    warnings = (
        html_page.items(notes, kind="warning")
        if notes
        else html_page.paragraph("No warnings were recorded.", kind="quiet")
    )
    lead = "The runs of this report. Runs of one net under several seeds are drawn together, as a median and a band."
    return html_page.section("Runs", lead, shown, *_instruments(subject), warnings)


def _instruments(subject: Subject) -> list[str]:
    """Say what was measured and how often, and which recorded tables have no figure on this page."""
    schedules: dict[str, list[str]] = {}
    for one in named(subject.runs):
        instruments = one.run.info.get("instruments") or {}
        schedules.setdefault(", ".join(f"{name} {when}" for name, when in instruments.items()), []).append(one.name)
    texts = [
        f"Measured{'' if len(schedules) == 1 else ' in ' + ', '.join(names)}: {text or 'nothing is noted in run.json'}."
        for text, names in schedules.items()
    ]
    others = list(dict.fromkeys(table for run in subject.runs for table in run.tables if table not in _DRAWN))
    if others:
        texts.append(f"Recorded too, and not drawn here: {', '.join(others)} (ics show RUN --table {others[0]}).")
    return [html_page.paragraph(text, kind="quiet") for text in texts]


def _describe(one: Named) -> dict[str, Any]:
    info = one.run.info
    config, layers = info.get("config") or {}, info.get("layers") or []
    sizes = [layer.get("num_parameters") for layer in layers]
    return {
        "run": one.name,
        "net": one.net,
        "seed": "–" if one.seed is None else str(one.seed),
        "state": one.run.state,
        "learning rate": config.get("learning_rate"),
        "batch size": config.get("batch_size"),
        "steps": config.get("steps"),
        "layers": len(layers) or None,
        "parameters": sum(sizes) if sizes and all(size is not None for size in sizes) else None,
        "device": info.get("device"),
        "torch": (info.get("versions") or {}).get("torch"),
    }


def _notes(run: Run) -> list[str]:
    notes = [str(text) for text in run.info.get("notes") or []]
    if run.state != "completed":
        notes.append(f"its state is {run.state}, not completed: what it recorded so far is shown")
    return notes


def _comparison(subject: Subject) -> str:
    nets = list(nets_of(subject.runs))
    if len(nets) != 2:
        lead = f"A table of ratios is made for two nets; this report holds {len(nets)}."
        return html_page.section("Comparison", lead)
    table = analysis.compare(*nets_of(subject.runs).values())
    ratio = f"{nets[1]} / {nets[0]}"
    shown = pd.DataFrame(
        {
            "measure": table["meaning"],
            "unit": table["unit"],
            nets[0]: table["a"],
            nets[1]: table["b"],
            ratio: table["ratio"],
            "from": table["low"],
            "to": table["high"],
            "n": table["n"],
            "remark": table["null_reason"],
        }
    )
    few = f" With fewer than {FEW_SEEDS} seeds it covers less than 95 %: read it as the spread that was seen."
    lead = (
        "One number per net and question (geometric means over seeds), their ratio, and its 95 % bootstrap interval "
        f"over seeds (from, to).{few if int(table['n'].max()) < FEW_SEEDS else ''} An interval that holds 1 tells no "
        "difference. Landscape measures use the step sizes that both nets were probed at."
    )
    return html_page.section("Comparison", lead, html_page.table(shown))


def _cost(subject: Subject) -> str:
    frame = read(subject.runs, "steps")
    if frame is None:
        return absent("What did it cost", "steps")
    costs = analysis.costs(frame)
    shown = pd.DataFrame(
        {
            "run": costs["run"],
            "steps": costs["num_steps"],
            "measured": costs["num_measured"],
            "plain step (ms)": 1000 * costs["plain_step"],
            "measured step (ms)": 1000 * costs["measured_step"],
            "evaluations after it (ms)": 1000 * costs["evaluating"],
            "all (s)": costs["total"],
            "times a plain training": costs["times_plain"],
        }
    )
    lead = (
        "Wall time by the clock of the training process: the median block of a step without and with hooks attached, "
        "the extra evaluations after a measured step, and all of it as a multiple of as many plain steps."
    )
    return html_page.section("What did it cost", lead, html_page.table(shown))


_SECTIONS: dict[str, Callable[[Subject], str]] = {
    "Findings": _findings,
    "Runs": _runs,
    **sections.FIGURES,
    "Comparison": _comparison,
    "What did it cost": _cost,
}
