"""The texts about a ledger that the HTML page and the Markdown page share."""

from __future__ import annotations

import re

import pandas as pd

TITLE = "What is said about BatchNorm, measured"
MARKS = {
    "supported": "✓ supported",
    "contradicted": "✗ contradicted",
    "mixed": "± mixed",
    "inconclusive": "? inconclusive",
}
HOW = (
    "Each claim has a rule that was fixed before anything was measured: the measures that count, and for each the "
    "region in which its effect lies if the claim is true. The border of a region is the smallest effect that counts. "
    "An interval wholly inside supports, wholly outside contradicts; across the border it leaves the claim open, with "
    "about how many seeds would settle it. Where some measures support and others contradict, the verdict is mixed.",
    "Intervals are of the mean over seeds, paired by seed, 95 %: the bootstrap, widened for few seeds (Hesterberg "
    "2015), and never narrower than Student's t. Ratios are averaged by their logarithms. A run that diverged counts as"
    " the largest value; the estimate is then a median, its interval one of order statistics. Fewer than three seeds "
    "decide nothing. No correction is made for the number of claims: of many open questions some come out by chance.",
)


def summary(overview: pd.DataFrame) -> str:
    """Return how many claims have which verdict."""
    counts = overview["verdict"].value_counts()
    told = [f"{counts[kind]} {kind}" for kind in MARKS if kind in counts]
    rest = len(overview) - sum(int(counts.get(kind, 0)) for kind in MARKS)
    return f"{len(overview)} claims: {', '.join(told)}{f'; {rest} without a verdict' if rest else ''}."


def votes(effects: pd.DataFrame) -> dict[str, str]:
    """Return how many effects of each claim support it, contradict it or leave it open: `"7 ✓ 1 ✗ 2 ?"`."""
    if effects.empty or "vote" not in effects.columns:
        return {}
    counts = effects[effects["vote"].notna()].groupby("id")["vote"].value_counts()
    return {
        str(name): "\N{NO-BREAK SPACE}".join(
            f"{counts[name, kind]}\N{NO-BREAK SPACE}{MARKS[kind][0]}" for kind in MARKS if (name, kind) in counts.index
        )
        for name in counts.index.unique("id")
    }


def rule_lines(effects: pd.DataFrame) -> list[str]:
    """Return each criterion once, grouped by the reason for the border."""
    if "criterion" not in effects.columns:
        return []
    rows = effects[effects["criterion"].notna()].drop_duplicates("criterion")
    reasons = rows["why"] if "why" in rows.columns else pd.Series("", index=rows.index)
    groups = rows["criterion"].groupby(reasons.fillna(""), sort=False)
    return [f"holds if {_listed(list(criteria))}{f': {why}' if why else ''}" for why, criteria in groups]


def condensed(notes: list[str]) -> list[str]:
    """Merge notes that differ only in their numbers: ten runs that diverged do so at ten different steps."""
    kinds: dict[str, list[str]] = {}
    for note in notes:
        kinds.setdefault(re.sub(r"\d+", "0", note), []).append(note)
    return [
        alike[0] if len(alike) == 1 else f"{alike[0]} ({len(alike) - 1} more with other numbers)"
        for alike in kinds.values()
    ]


def _listed(texts: list[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
