"""Every claim, by its identifier; a test holds that no row of `STATEMENTS` is without one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ics.claims.c01_shape_drift import C01
from ics.claims.c02_gaussianity import C02
from ics.claims.c03_central_limit import C03
from ics.claims.c04_after_norm import C04
from ics.claims.c05_norm_placement import C05
from ics.claims.c06_affine_undoes_fixing import C06
from ics.claims.c07_same_over_time import C07
from ics.claims.c08_affine_keeps_shape import C08
from ics.claims.c09_lp_norms import C09
from ics.claims.c10_speed import C10
from ics.claims.c11_weight_growth import C11
from ics.claims.c12_saturation import C12
from ics.claims.c13_running_averages import C13
from ics.claims.c14_higher_order_terms import C14
from ics.claims.c15_simultaneous_updates import C15
from ics.claims.c16_gaussian_substitute import C16
from ics.claims.c17_restored_distribution import C17
from ics.claims.c18_internal_covariate_shift import C18
from ics.claims.c19_deep_linear import C19
from ics.claims.c20_planarity import C20
from ics.claims.c21_smoothness import C21
from ics.claims.c22_noisy_norm import C22
from ics.claims.c23_one_layer_signs import C23
from ics.claims.c24_regularisation import C24
from ics.claims.c25_c26_detached_statistics import C25, C26
from ics.claims.c27_cancelled_bias import C27
from ics.claims.c28_population_statistics import C28
from ics.claims.c29_gradient_growth import C29
from ics.claims.c30_edge_of_stability import C30
from ics.claims.c31_rank_collapse import C31
from ics.claims.method.claim import Claim
from ics.errors import UsageError, unknown_name
from ics.ledger import STATEMENTS

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
