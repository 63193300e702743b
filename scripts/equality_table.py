"""G' of all layers by prefix reuse and by the slow reference, over all families of nets: docs/equality.md and .csv.

    OMP_NUM_THREADS=1 python scripts/equality_table.py             # all families: about five minutes
    OMP_NUM_THREADS=1 python scripts/equality_table.py vgg11 lstm  # these anew, the others as they stand in the CSV

The families are those of tests/reference/families.py. Times are CPU times of this process, one run each.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.reference.equality import LEARNING_RATE, Comparison, compare  # noqa: E402
from tests.reference.families import FAMILIES, OWN, TORCHVISION, TRICKY  # noqa: E402

TABLE, PAGE = ROOT / "docs" / "equality.csv", ROOT / "docs" / "equality.md"
COLUMNS = (
    "family",
    "layers",
    "layers_with_shift",
    "equal_float32",
    "difference_float32",
    "worst_layer",
    "equal_float64",
    "difference_float64",
    "finite",
    "full_passes_because",
    "kept_prefix_first_steps",
    "kept_prefix_steps",
    "reference_steps",
    "plain_step_seconds",
)
GROUPS = {
    "torchvision": (TORCHVISION, "Every image-classification family of torchvision, in train mode."),
    "Other nets": (OWN, "Recurrence, attention, sharing, other normalisations, recomputation."),
    "Nets that leave something behind": (
        TRICKY,
        "A pass of these does more than its modules return: state in attributes, objects and hooks, writes into "
        "arguments, tensors that share memory.",
    ),
}
HEADER = """# Fast and slow gradient shift are the same numbers

Made by `OMP_NUM_THREADS=1 python scripts/equality_table.py` (CPU, one thread, torch {version}); the numbers are in
[equality.csv](equality.csv).

For each net: two steps of SGD (learning rate {rate}, momentum 0.9), then G' of **every** layer for the second step, by
`ics/landscape/hybrids/replay/prefix_reuse.py` and by `tests/reference/gradient_shift_kpass.py`, which copies the model
for every layer, loads the hybrid's weights into the copy, replays the random state (dropout and stochastic depth draw
the same masks) and runs a full pass. The two share the list of layers and nothing else. The fast way is measured
twice, since the first time it checks that the model can be replayed. Both results are compared, and the worse one
counts.

- *equal*: layers whose gradients are equal bit for bit, of all layers, in float32 and in float64.
- *moved*: layers whose G' differs from G; equality of the others says little. The first layer never moves.
- *difference*: largest ||fast - slow|| / ||slow|| of a layer; 0 where all bits are equal.
- *way*: prefix reuse, or full passes where that is not possible, which the toolkit warns about.
- *first*, *fast*, *slow*: CPU time in plain training steps of the same net: of prefix reuse the first time and from
  then on, and of the reference. One run each: indicative. In nets whose step takes a millisecond the fast way costs
  about what the slow one does, or more; `ics.gradient_shift` then takes full passes.

**{equal} of {total} families are equal in every bit, float32 and float64: {layers} layers.** {others}
"""
OTHERS = "{number} {are} not, which is a mistake."
NONE = "No other family is in the table."


def main() -> None:
    """Compare the families asked for and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="default: all")
    asked = parser.parse_args().families
    unknown = [name for name in asked if name not in FAMILIES]
    if unknown:
        parser.error(f"expected families of {', '.join(FAMILIES)}; got {', '.join(unknown)}")
    torch.set_num_threads(1)
    rows = _stored_rows() if asked else {}
    for name in asked or FAMILIES:
        rows[name] = _row(name)
        print(*(f"{column}={rows[name][column]}" for column in COLUMNS), flush=True)
        _write([rows[name] for name in FAMILIES if name in rows])


def _stored_rows() -> dict[str, dict[str, str]]:
    with TABLE.open(newline="") as file:
        return {row["family"]: row for row in csv.DictReader(file)}


def _row(name: str) -> dict[str, str]:
    single, double = (compare(FAMILIES[name], dtype) for dtype in (torch.float32, torch.float64))
    plain, first, fast, slow = single.seconds
    cells = (
        name,
        single.layers,
        single.moved,
        single.equal,
        f"{single.difference:.3g}",
        single.worst or "",
        double.equal,
        f"{double.difference:.3g}",
        single.finite and double.finite,
        _reason(single) or _reason(double),
        f"{first / plain:.1f}",
        f"{fast / plain:.1f}",
        f"{slow / plain:.1f}",
        f"{plain:.4f}",
    )
    return dict(zip(COLUMNS, map(str, cells), strict=True))


def _reason(comparison: Comparison) -> str:
    """The part of the warning that says why."""
    said = comparison.fell_back or ""
    return said.split("because ", 1)[-1].removesuffix("; the numbers are the same")


def _write(rows: Sequence[dict[str, str]]) -> None:
    TABLE.parent.mkdir(exist_ok=True)
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    PAGE.write_text(_page({row["family"]: row for row in rows}))


def _page(rows: dict[str, dict[str, str]]) -> str:
    same = [row for row in rows.values() if row["equal_float32"] == row["equal_float64"] == row["layers"]]
    other = [name for name in rows if rows[name] not in same]
    are = {"number": len(other), "are": "is" if len(other) == 1 else "are"}
    counts = {"equal": len(same), "total": len(rows), "layers": sum(int(row["layers"]) for row in same)}
    others = OTHERS.format(**are) if other else NONE
    parts = [HEADER.format(version=torch.__version__.split("+")[0], rate=LEARNING_RATE, others=others, **counts)]
    for title, (families, what) in GROUPS.items():
        lines = [_line(rows[name]) for name in families if name in rows]
        if lines:
            head = "| net | layers | moved | equal f32 | equal f64 | difference f32, f64 | way | first | fast | slow |"
            parts.append(
                "\n".join([f"## {title}\n\n{what}\n", head, "|---|" + "---:|" * 5 + "---|---:|---:|---:|", *lines])
            )
            notes = [f"- `{name}`: {families[name].note}" for name in families if name in rows and families[name].note]
            parts.append("\n".join(notes))
    reasons = [f"- `{name}`: {rows[name]['full_passes_because']}." for name in rows if _fell_back(rows[name])]
    if reasons:
        parts.append("## Why full passes were taken\n\n" + "\n".join(reasons))
    if other:
        lines = [f"- `{name}`, most of all in `{rows[name]['worst_layer']}`" for name in other]
        parts.append("## What is not equal\n\n" + "\n".join(lines))
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _fell_back(row: dict[str, str]) -> bool:
    return bool(row["full_passes_because"])


def _line(row: dict[str, str]) -> str:
    way = "full passes" if _fell_back(row) else "prefix reuse"
    differences = f"{row['difference_float32']}, {row['difference_float64']}"
    cells = (
        *(row["family"] + ("" if row["finite"] == "True" else " (not finite)"), row["layers"]),
        *(row["layers_with_shift"], row["equal_float32"], row["equal_float64"], differences, way),
        *(row["kept_prefix_first_steps"], row["kept_prefix_steps"], row["reference_steps"]),
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
