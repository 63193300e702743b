"""`Evidence`: the input of an evidence function, whether it was recorded or made up for a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ics.claims.method.budgets import BUDGETS, ClaimBudget
from ics.errors import IcsError, unknown_name
from ics.experiments.training.config import RunConfig

Where = Mapping[str, Any]
Reader = Callable[[str, Sequence[str] | None, Where], pd.DataFrame]


class MissingEvidenceError(IcsError):
    """A table, net or study that was not recorded."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The recorded tables of a claim's nets, and the results of its studies.

    Attributes:
        read: (table, columns, where) to the rows of all nets, with `run`, `net` and `seed` in front.
        studies: study name to the rows of all its seeds, with `seed`.
        configs: net to its configuration, seed aside; for settings such as the learning rate.
        budget: under which it was recorded.
    """

    read: Reader
    studies: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    configs: Mapping[str, RunConfig] = field(default_factory=dict)
    budget: ClaimBudget = BUDGETS["quick"]

    @classmethod
    def of_frames(
        cls,
        tables: Mapping[str, pd.DataFrame] | None = None,
        *,
        studies: Mapping[str, pd.DataFrame] | None = None,
        configs: Mapping[str, RunConfig] | None = None,
        budget: ClaimBudget | str = "quick",
    ) -> Evidence:
        """Return evidence from made-up tables: frames with `net`, `seed` and the columns that are needed.

        Example:
            >>> rows = pd.DataFrame({"net": "standard", "seed": [0, 1], "step": 0, "loss": [2.0, 3.0]})
            >>> Evidence.of_frames({"steps": rows}).table("steps", where={"seed": 1})["loss"].tolist()
            [3.0]
        """

        def read(table: str, columns: Sequence[str] | None, where: Where) -> pd.DataFrame:
            rows = (tables or {}).get(table, pd.DataFrame())
            for name, wanted in where.items():
                if name in rows.columns:
                    rows = rows[rows[name].isin(wanted if isinstance(wanted, list | tuple) else [wanted])]
            if "run" not in rows.columns and not rows.empty:
                rows = rows.assign(run=rows["net"].astype(str) + "-" + rows["seed"].astype(str))
            identity = [name for name in ("run", "net", "seed") if name in rows.columns]
            others = [name for name in columns or rows.columns if name not in identity and name in rows.columns]
            return rows[[*identity, *others]]

        size = BUDGETS[budget] if isinstance(budget, str) else budget
        return cls(read, studies or {}, configs or {}, size)

    def table(self, name: str, *, columns: Sequence[str] | None = None, where: Where | None = None) -> pd.DataFrame:
        """Return rows of a table of all nets, with `run`, `net` and `seed`.

        Args:
            name: a table of the schema, e.g. `"gradient_shift"`.
            columns: only these, which saves reading histograms; None is all.
            where: column to the value, or list of values, that its rows must have; may name `net` and `seed`.

        Raises:
            MissingEvidenceError: no net recorded such rows; the claim is then inconclusive and says so.
        """
        rows = self.read(name, columns, where or {})
        if rows.empty:
            wanted = f" with {', '.join(f'{key} {value}' for key, value in where.items())}" if where else ""
            raise MissingEvidenceError(f"no run holds rows of the table {name}{wanted}")
        return rows.reset_index(drop=True)

    def study(self, name: str) -> pd.DataFrame:
        """Return the rows of a study, all seeds below each other, with the column `seed`."""
        if name not in self.studies:
            raise MissingEvidenceError(f"no result of the study {name} is there")
        return self.studies[name]

    def config(self, net: str) -> RunConfig:
        """Return the configuration of a net."""
        if net not in self.configs:
            raise unknown_name("net of this claim", net, self.configs)
        return self.configs[net]

    @property
    def nets(self) -> tuple[str, ...]:
        """The nets, in the order in which the claim names them."""
        return tuple(self.configs)
