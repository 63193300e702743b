"""Every claim, by its identifier; a test holds that no row of `STATEMENTS` is without one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ics.errors import UsageError, unknown_name
from ics.experiments.claims.affine import C08
from ics.experiments.claims.after_norm import C04
from ics.experiments.claims.cancelled_bias import C27
from ics.experiments.claims.central_limit import C03
from ics.experiments.claims.chain import C14
from ics.experiments.claims.covariate_shift import C18
from ics.experiments.claims.deep_linear import C19
from ics.experiments.claims.detached import C25, C26
from ics.experiments.claims.edge import C30
from ics.experiments.claims.gaussian_substitute import C16
from ics.experiments.claims.gaussianity import C02
from ics.experiments.claims.gradient_growth import C29
from ics.experiments.claims.lp_norms import C09
from ics.experiments.claims.method.claim import Claim
from ics.experiments.claims.noisy_norm import C22
from ics.experiments.claims.one_layer_signs import C23
from ics.experiments.claims.placement import C05
from ics.experiments.claims.planarity import C20
from ics.experiments.claims.population import C28
from ics.experiments.claims.rank import C31
from ics.experiments.claims.regularisation import C24
from ics.experiments.claims.restoring import C17
from ics.experiments.claims.running_averages import C13
from ics.experiments.claims.sameness import C07
from ics.experiments.claims.saturation import C12
from ics.experiments.claims.shape_drift import C01
from ics.experiments.claims.simultaneous import C15
from ics.experiments.claims.smoothness import C21
from ics.experiments.claims.speed import C10
from ics.experiments.claims.undone_fixing import C06
from ics.experiments.claims.weight_growth import C11
from ics.ledger.statements import STATEMENTS

CLAIMS: Mapping[str, Claim] = {
    claim.id: claim
    for claim in (
        C01,
        C02,
        C03,
        C04,
        C05,
        C06,
        C07,
        C08,
        C09,
        C10,
        C11,
        C12,
        C13,
        C14,
        C15,
        C16,
        C17,
        C18,
        C19,
        C20,
        C21,
        C22,
        C23,
        C24,
        C25,
        C26,
        C27,
        C28,
        C29,
        C30,
        C31,
    )
}
"""Identifier to claim."""


def claims_named(names: Iterable[str]) -> tuple[Claim, ...]:
    """Return the claims called so, each once, in the order of the ledger; `"all"` are all that can be run.

    Raises:
        SelectionError: there is no such claim.
        UsageError: it cannot be run yet, or none was named.

    Example:
        >>> [claim.id for claim in claims_named(["c08", "C07"])]
        ['C07', 'C08']
    """
    wanted = {name.upper() for name in names}
    if not wanted:
        raise UsageError("expected a claim, got none; type e.g. C07, or all")
    if wanted == {"ALL"}:
        return tuple(CLAIMS[name] for name in STATEMENTS if name in CLAIMS)
    for name in sorted(wanted):
        if name not in STATEMENTS:
            raise unknown_name("claim", name, STATEMENTS)
        if name not in CLAIMS:
            raise UsageError(f"{name} cannot be run yet; these can: {', '.join(CLAIMS)}")
    return tuple(CLAIMS[name] for name in STATEMENTS if name in wanted)
