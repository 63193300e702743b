"""The page of the deep linear net: its numbers (a row per run), its tables and its two figures, from Parquet alone."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

import ics
from ics import analysis
from ics.store import Run

LAYERS = {"9": "linear9", "17": "linear17"}
"""The layers that are drawn: a third and two thirds of the way up."""

BETA_STEPS = (1000, 2000)
EARLY = 100


def completed(folder: Path) -> list[Run]:
    """Return the completed runs in a folder, by name."""
    runs = [ics.open_run(path.parent) for path in sorted(folder.glob("*/run.json"))]
    return [run for run in runs if run.state == "completed"]


def weight_shifts(run: Run) -> pd.DataFrame:
    """Return the shift of the weights of layers 2 to 25; that of layer 1 is 0 by definition."""
    frame = run.table("gradient_shift", where={"parameters": "weight"})
    return frame[frame["layer_index"] > 0]


def typical_l2(run: Run) -> pd.Series:
    """Return per step the median over layers of ||G - G'||."""
    return weight_shifts(run).groupby("step")["shift_l2"].median()


def numbers_of(run: Run) -> dict[str, object]:
    """Return the numbers of one run: losses, beta, the largest probed loss, cosines and l2 of the shift."""
    config, steps, shifts = run.info["config"], run.table("steps"), weight_shifts(run)
    bands = analysis.landscape_bands(run.table("gradient_line")).set_index("step")
    row: dict[str, object] = {name: config[name] for name in ("net", "learning_rate", "seed", "steps")}
    row |= {
        "measured_steps": int(steps["measured"].sum()),
        "seconds": steps["duration"].sum() + steps["measuring_duration"].sum(),
        "loss_start": steps["loss"].iloc[0],
        "loss_end": steps["loss"].iloc[-1],
        "loss_last_100": steps["loss"].iloc[-100:].median(),
        f"largest_loss_{EARLY}": bands["loss_max"].get(EARLY),
    }
    for step in BETA_STEPS:
        row[f"beta_{step}"] = bands["beta_max"].get(step)
        row[f"beta_{step}_of_2_over_lr"] = bands["beta_max"].get(step) * config["learning_rate"] / 2
    for label, layer in LAYERS.items():
        cosine = shifts.loc[shifts["layer"] == layer, "shift_cosine"]
        row |= {f"cosine_{label}_{what}": getattr(cosine, what)() for what in ("min", "median", "max")}
    # Over all layers but the first, what is most favourable to "stays near 1" and what is least.
    lowest = shifts.groupby("layer")["shift_cosine"].min()
    return row | {
        "cosine_lowest": lowest.min(),
        "cosine_lowest_of_best_layer": lowest.max(),
        "l2": typical_l2(run).median(),
    }


def numbers(runs: list[Run]) -> pd.DataFrame:
    """Return a row per run; BatchNorm's rows also say how often its shift is more than ten times the standard net's."""
    frame = pd.DataFrame([numbers_of(run) for run in runs])
    where = {(run.info["config"]["net"], run.info["config"]["learning_rate"], run.info["seed"]): run for run in runs}
    for index, row in frame[frame["net"] == "BatchNorm"].iterrows():
        other = where.get(("standard", row["learning_rate"], row["seed"]))
        if other is not None:
            ratio = typical_l2(where["BatchNorm", row["learning_rate"], row["seed"]]) / typical_l2(other)
            frame.loc[index, ["l2_ratio", "share_above_10"]] = [ratio.median(), (ratio > 10).mean()]
    return frame.sort_values(["learning_rate", "net", "seed"], ascending=[False, False, True], ignore_index=True)


def show(value: float) -> str:
    """Return a number as the page prints it: three digits."""
    if pd.isna(value):
        return ""
    return f"{value:.2e}" if abs(value) >= 1000 or 0 < abs(value) < 1e-3 else f"{value:.3g}"


def table(frame: pd.DataFrame, columns: dict[str, str]) -> str:
    """Return a Markdown table of the columns, under their headings; the net, learning rate and seed in front."""
    lines = ["| net | lr | seed | " + " | ".join(columns.values()) + " |", "|---" * (3 + len(columns)) + "|"]
    for _, row in frame.iterrows():
        cells = " | ".join(show(row[name]) for name in columns)
        lines.append(f"| {row['net']} | {row['learning_rate']:.0e} | {row['seed']} | {cells} |")
    return "\n".join(lines)


def tables(frame: pd.DataFrame) -> dict[str, str]:
    """Return the page's tables by the name of their place."""
    normed = frame[frame["net"] == "BatchNorm"]
    beta = {}
    for step in BETA_STEPS:
        beta |= {f"beta_{step}": f"beta at {step}", f"beta_{step}_of_2_over_lr": "beta / (2/lr)"}
    cosines = {
        f"cosine_{label}_{what}": f"layer {label}: {heading}"
        for label in LAYERS
        for what, heading in (("min", "lowest"), ("median", "median"), ("max", "highest"))
    }
    return {
        "claims": claims(frame),
        "losses": table(
            frame,
            {
                "loss_start": "at step 0",
                "loss_end": "at the last step",
                "loss_last_100": "median of the last 100",
                "seconds": "seconds",
            },
        ),
        "beta": table(frame, beta),
        "shift": table(
            normed, {"l2": "median l2", "l2_ratio": "times the standard net's", "share_above_10": "share of steps > 10"}
        ),
        "cosines": table(frame, cosines | {"cosine_lowest": "lowest of any layer"}),
        "early": table(frame, {f"largest_loss_{EARLY}": f"largest probed loss at step {EARLY}"}),
    }


def claims(frame: pd.DataFrame) -> str:
    """Return the table of what was stated before, what came out, and whether the two agree."""
    plain, normed = (frame[frame["net"] == net] for net in ("standard", "BatchNorm"))
    fast, slow = (
        (part[part["learning_rate"] == 1e-6] for part in (plain, normed)),
        normed[normed["learning_rate"] == 1e-7],
    )
    plain_fast, normed_fast = fast
    plain_slow = plain[plain["learning_rate"] == 1e-7]
    rows = [
        ("standard net, lr 1e-6, loss", "7.4e4 to 1.5e4 (seed 0)", _losses(plain_fast), None),
        ("BatchNorm, lr 1e-6, loss", "8.6e4 to 3.6e3 (seed 0)", _losses(normed_fast), None),
        *[_beta_claim(normed_fast, step) for step in BETA_STEPS],
        *[_beta_claim(slow, step, stated="within 3 % of 1 (stated for lr 1e-6)") for step in BETA_STEPS],
        (
            "l2 shift of BatchNorm over the standard net's, lr 1e-7",
            "above 10 at most measured steps",
            "above 10 at " + ", ".join(f"{value:.0%}" for value in slow["share_above_10"]) + " of the steps",
            bool((slow["share_above_10"] > 0.5).all()),
        ),
        (
            "standard net, lr 1e-7: lowest cosine (layers 9; 17)",
            "0.98 or more for two of three seeds, -0.997 for the third",
            "; ".join(_values(plain_slow[f"cosine_{label}_min"]) for label in LAYERS),
            bool(((plain_slow[[f"cosine_{label}_min" for label in LAYERS]] >= 0.98).all(axis=1)).sum() >= 2),
        ),
        (
            "BatchNorm, lr 1e-7: range of the cosine (layers 9 and 17)",
            "-0.9 to 0.99 (agrees: reaches -0.9)",
            f"{slow[['cosine_9_min', 'cosine_17_min']].min().min():.2f} to "
            f"{slow[['cosine_9_max', 'cosine_17_max']].max().max():.2f}",
            bool(slow[["cosine_9_min", "cosine_17_min"]].min().min() <= -0.9),
        ),
        (
            f"standard net, lr 1e-6: largest probed loss at step {EARLY}",
            "1.5e10, 1.0e5, 5.9e12 (agrees: seeds differ by more than 1000 times)",
            _values(plain_fast[f"largest_loss_{EARLY}"]),
            bool(plain_fast[f"largest_loss_{EARLY}"].max() > 1000 * plain_fast[f"largest_loss_{EARLY}"].min()),
        ),
        (
            f"BatchNorm, lr 1e-6: largest probed loss at step {EARLY}",
            "near 1.4e5 (agrees: within 20 %)",
            _values(normed_fast[f"largest_loss_{EARLY}"]),
            bool(normed_fast[f"largest_loss_{EARLY}"].between(1.12e5, 1.68e5).all()),
        ),
        (
            "BatchNorm ends lower than the standard net",
            "5e2 against 1.7e3 (figure)",
            ", ".join(
                f"{rate:.0e}: {_values(ends)}" for rate, ends in _end_ratios(frame).groupby("lr", sort=False)["of"]
            )
            + " times the standard net's",
            bool((_end_ratios(frame)["of"] < 1).all()),
        ),
    ]
    said = {True: "yes", False: "no", None: "not comparable"}
    lines = ["| what | stated | measured, seeds in order | agrees |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {what} | {stated} | {got} | {said[agrees]} |" for what, stated, got, agrees in rows])


def _beta_claim(rows: pd.DataFrame, step: int, *, stated: str = "within 3 % of 1") -> tuple[str, str, str, bool]:
    off = rows[f"beta_{step}_of_2_over_lr"]
    rate = rows["learning_rate"].iloc[0]
    within = bool(((off - 1).abs() <= 0.03).all())
    return (
        f"BatchNorm, lr {rate:.0e}: beta / (2/lr) at step {step}",
        stated,
        ", ".join(f"{x:.3f}" for x in off),
        within,
    )


def _losses(rows: pd.DataFrame) -> str:
    return "; ".join(f"{show(row['loss_start'])} to {show(row['loss_end'])}" for _, row in rows.iterrows())


def _values(values: pd.Series) -> str:
    return ", ".join(show(value) for value in values)


def _end_ratios(frame: pd.DataFrame) -> pd.DataFrame:
    ends = frame.pivot(index=["learning_rate", "seed"], columns="net", values="loss_end")
    ratio = (ends["BatchNorm"] / ends["standard"]).reset_index(name="of")
    return ratio.rename(columns={"learning_rate": "lr"})


def fill(page: str, filled: dict[str, str]) -> str:
    """Return the page with what stands between `<!-- table NAME -->` and `<!-- end -->` replaced."""
    for name, text in filled.items():
        pattern = rf"(<!-- table {name} -->\n).*?(<!-- end -->)"
        page = re.sub(pattern, lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page, flags=re.DOTALL)
    return page


def write_page(folder: Path, *, docs: Path) -> None:
    """Write deep_linear.csv and the two figures, and renew the tables of deep_linear.md."""
    from scripts.deep_linear_figures import landscape_picture, shift_picture

    runs = completed(folder)
    frame = numbers(runs)
    frame.to_csv(docs / "deep_linear.csv", index=False, float_format="%.6g")
    page = docs / "deep_linear.md"
    page.write_text(fill(page.read_text(), tables(frame)))
    shift_picture(runs).save(docs / "deep_linear_shift.png", optimize=True)
    landscape_picture(runs).save(docs / "deep_linear_landscape.png", optimize=True)
