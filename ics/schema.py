"""Every table of a run: keys, columns, types, units, meanings and sources. The written page is docs/schema.md.

`SCHEMA_VERSION` rises whenever a stored column changes its meaning or goes; adding a nullable column does not raise it.
"""

from __future__ import annotations

from collections.abc import Mapping

from ics.columns import Column, Table
from ics.errors import unknown_name

SCHEMA_VERSION = 1

SITES = ("input", "preactivation", "normalized", "scaled", "activation")
DIRECTIONS = ("gradient", "update", "random")
PARAMETERS = ("weight", "all")
REMAINDER = "(remainder)"
WHOLE_NET = "(all)"

STEP = Column("step", "int64", "optimizer steps done before this one, from 0", "steps")
LAYER = Column("layer", "string", "dotted module name as in state_dict, wrapper prefixes stripped")
LAYER_INDEX = Column(
    "layer_index",
    "int64",
    "position of the layer in the order of execution, from 0; what is no layer has that of the layer before it",
)
CALL = Column("call", "int64", "how many times the layer had been called before in the same forward pass")
SITE = Column("site", "string", "place of the tensor: " + ", ".join(SITES))
NULL_REASON = Column("null_reason", "string", "why a value of this row is null; null where none is")
LEARNING_RATE = Column("learning_rate", "float64", "learning rate of the step (first parameter group)")

_POOLED = (
    Column("count", "int64", "finite values that entered the moments"),
    Column("mean", "float64", "mean of the finite values", "value", "SCIENCE 3"),
    Column("m2", "float64", "second central moment sum / count (biased variance)", "value^2"),
    Column("m3", "float64", "third central moment sum / count", "value^3"),
    Column("m4", "float64", "fourth central moment sum / count", "value^4"),
    Column("minimum", "float64", "smallest finite value", "value"),
    Column("maximum", "float64", "largest finite value", "value"),
    Column("zero_fraction", "float64", "fraction of the finite values that are exactly 0"),
    Column("negative_fraction", "float64", "fraction of the finite values below 0"),
    Column("nonfinite_count", "int64", "values that are NaN or infinite"),
    Column("histogram_bucket", "list<int64>", "signed numbers of the histogram buckets that are not empty"),
    Column("histogram", "list<int64>", "values counted in each of those buckets (see ics.buckets)"),
)

_SATURATED = Column(
    "saturated_fraction",
    "float64",
    "fraction of the finite values within 1 % of the range from an asymptote of the activation function; null for "
    "sites other than activation and for functions that are not bounded on both sides",
)

_PER_CHANNEL = (
    Column("channel_count", "list<int64>", "finite values per channel"),
    Column("channel_mean", "list<float64>", "mean per channel", "value"),
    Column("channel_m2", "list<float64>", "second central moment per channel (biased variance)", "value^2"),
    Column("channel_m3", "list<float64>", "third central moment per channel", "value^3"),
    Column("channel_m4", "list<float64>", "fourth central moment per channel", "value^4"),
    Column("channel_minimum", "list<float64>", "smallest finite value per channel", "value"),
    Column("channel_maximum", "list<float64>", "largest finite value per channel", "value"),
    Column("channel_zero_fraction", "list<float64>", "fraction of zeros per channel"),
    Column("channel_negative_fraction", "list<float64>", "fraction of negative values per channel"),
    Column("channel_saturated_fraction", "list<float64>", "saturated fraction per channel; null as saturated_fraction"),
    Column("channel_nonfinite_count", "list<int64>", "values that are NaN or infinite, per channel"),
)

_OF_UPDATES = "steps at which anything but activations and normalization is due"

STEPS = Table(
    "steps",
    "optimizer step",
    (STEP,),
    (
        Column("loss", "float64", "training loss as logged by the user's loop", "loss"),
        LEARNING_RATE,
        Column("gradient_norm", "float64", f"l2 norm of the gradient the optimizer used; {_OF_UPDATES}", "loss/weight"),
        Column("update_norm", "float64", f"l2 norm of parameters after - before the step; {_OF_UPDATES}", "weight"),
        Column("regulariser", "float64", f"sum of weight_decay/2 ||w||^2 before the step; {_OF_UPDATES}", "loss"),
        Column("measured", "bool", "whether any instrument was due at this step"),
        Column("duration", "float64", "wall time of the user's block, armed hooks included", "s"),
        Column("measuring_duration", "float64", "wall time of the extra evaluations after the block", "s"),
    ),
    wide=True,
)

ACTIVATIONS = Table(
    "activations",
    "step, layer, call and site",
    (STEP, LAYER, LAYER_INDEX, CALL, SITE),
    (
        Column("source", "string", "module or function that made the tensor; null for an input made outside a module"),
        *_POOLED,
        _SATURATED,
        *_PER_CHANNEL,
        NULL_REASON,
    ),
)

GRADIENTS = Table(
    "gradients",
    "step, layer, and parameter or site",
    (
        STEP,
        LAYER,
        LAYER_INDEX,
        Column("call", "int64", "as in activations; 0 for parameters"),
        Column("of", "string", "name of the parameter as in state_dict, or site whose dL/d(site) this is"),
        Column("kind", "string", "parameter or site"),
    ),
    (
        Column(
            "gradient_norm", "float64", "l2 norm of the gradient (parameters: as the optimizer used it)", "loss/value"
        ),
        Column("parameter_norm", "float64", "l2 norm of the parameter before the step; null for sites", "weight"),
        Column("update_norm", "float64", "l2 norm of the parameter after - before; null for sites", "weight"),
        Column("update_ratio", "float64", "update_norm / parameter_norm; null for sites and zero parameters"),
        *_POOLED,
        *_PER_CHANNEL[:5],
        NULL_REASON,
    ),
)

NORMALIZATION = Table(
    "normalization",
    "step, normalisation layer and call",
    (STEP, LAYER, LAYER_INDEX, CALL),
    (
        Column("kind", "string", "class of the normalisation module"),
        Column("of_layer", "string", "layer whose output it normalises; null where it follows none directly"),
        Column("count", "int64", "m: values per channel over which statistics are taken"),
        Column("channel_batch_mean", "list<float64>", "mu: mean of the batch per channel", "value"),
        Column("channel_batch_variance", "list<float64>", "biased variance of the batch per channel", "value^2"),
        Column("channel_running_mean", "list<float64>", "running mean after the forward pass", "value"),
        Column("channel_running_variance", "list<float64>", "running variance after the forward pass", "value^2"),
        Column("channel_weight", "list<float64>", "gamma before the update"),
        Column("channel_bias", "list<float64>", "beta before the update", "value"),
        Column(
            "output_gradient_squared", "float64", "sum over channels of ||g||^2, g = dL/d(output)", "(loss/value)^2"
        ),
        Column("rescaled_gradient_squared", "float64", "sum of gamma^2/sigma^2 ||g||^2", "(loss/value)^2", "Thm 4.1"),
        Column("mean_term", "float64", "sum of gamma^2/sigma^2 <1,g>^2/m", "(loss/value)^2", "Thm 4.1"),
        Column(
            "normalized_term",
            "float64",
            "sum of gamma^2/sigma^2 (2/m - ||x-hat||^2/m^2) <g,x-hat>^2",
            "(loss/value)^2",
            "Thm 4.1, with eps inside sigma",
        ),
        Column(
            "input_gradient_squared", "float64", "sum over channels of ||dL/d(input)||^2, measured", "(loss/value)^2"
        ),
        Column(
            "theorem_error",
            "float64",
            "|rescaled - mean_term - normalized_term - input_gradient_squared| / input_gradient_squared",
            source="Thm 4.1",
        ),
        Column("bias_before_gradient_norm", "float64", "l2 norm of the gradient of the bias in front", "loss/weight"),
        NULL_REASON,
    ),
)

_DISTANCES = (
    ("mean_shift", "mean over channels of |mean difference| / std of the reference", "std"),
    ("log_variance_ratio", "mean over channels of |log variance ratio|", "1"),
    ("gaussian_kl", "mean over channels of KL(now || reference) of the fitted normals", "nat"),
    ("wasserstein_1", "mean over channels of Wasserstein-1 / std of the reference, on a fixed-stride sample", "std"),
)

DRIFT = Table(
    "drift",
    "step, layer, call, site and reference",
    (STEP, LAYER, LAYER_INDEX, CALL, SITE, Column("reference", "string", "before_update, or step_<n>")),
    (
        *(Column(name, "float64", meaning, unit, "SCIENCE 3") for name, meaning, unit in _DISTANCES),
        *(
            Column(f"floor_{name}", "float64", f"{name} between two halves of the probe batch", unit)
            for name, _, unit in _DISTANCES
        ),
        NULL_REASON,
    ),
)

GRADIENT_SHIFT = Table(
    "gradient_shift",
    "step, layer and set of parameters",
    (STEP, LAYER, LAYER_INDEX, Column("parameters", "string", "weight, or all parameters of the layer")),
    (
        Column("gradient_norm", "float64", "||G||", "loss/weight", "Santurkar 2018, Def. 2.1"),
        Column("shifted_gradient_norm", "float64", "||G'||", "loss/weight", "Santurkar 2018, Def. 2.1"),
        Column("shift_l2", "float64", "||G - G'||", "loss/weight", "Santurkar 2018, Def. 2.1"),
        Column("shift_cosine", "float64", "cos(G, G')", "1", "Santurkar 2018, sec. 2.2"),
        Column("shift_relative", "float64", "||G - G'|| / ||G||"),
        Column("floor_l2", "float64", "||G - G_b||, G_b the gradient of a second batch at W(t)", "loss/weight"),
        Column("floor_cosine", "float64", "cos(G, G_b)"),
        Column("floor_relative", "float64", "||G - G_b|| / ||G||"),
        Column("linearised_l2", "float64", "||l||, l = sum over j < i of H_ij (W_j(t+1) - W_j(t))", "loss/weight"),
        Column("linearised_cosine", "float64", "cos(l, G' - G)"),
        Column("unexplained_relative", "float64", "||G' - G - l|| / ||G' - G||; the option linearised"),
        NULL_REASON,
    ),
)

ATTRIBUTION = Table(
    "attribution",
    "step, layer, source layer before it (or the remainder), and set of parameters",
    (
        STEP,
        LAYER,
        LAYER_INDEX,
        Column("source_layer", "string", f"the one layer that was updated; {REMAINDER} for layers acting together"),
        Column("source_index", "int64", "position of the source layer in the order of execution; -1 for the remainder"),
        Column("parameters", "string", "weight, or all parameters of the layer"),
    ),
    (
        Column("shift_l2", "float64", "||p||, p = grad_i with only the source updated - G_i", "loss/weight"),
        Column("whole_shift_l2", "float64", "||s||, s = G' - G as in gradient_shift", "loss/weight"),
        Column("fraction", "float64", "||p|| / ||s||"),
        Column("whole_shift_cosine", "float64", "cos(p, s)"),
        Column("share", "float64", "<p, s> / ||s||^2; the shares of a layer, remainder included, add up to 1"),
        NULL_REASON,
    ),
)

GRADIENT_LINE = Table(
    "gradient_line",
    "step, layer moved (or the whole net), direction, draw and eta",
    (
        STEP,
        Column("layer", "string", f"the one layer that is moved, g, d and w its own; {WHOLE_NET} for the whole net"),
        Column("direction", "string", "gradient (w - eta g), update (w + eta/lr (W(t+1) - W(t))), or random"),
        Column("draw", "int64", "number of the random direction; 0 for the others"),
        Column("eta", "float64", "step size along the line; 0 is the point itself"),
    ),
    (
        Column("distance", "float64", "||w_eta - w||", "weight", "Santurkar 2018, sec. 3"),
        Column("loss", "float64", "L(w_eta) on the training batch, train mode", "loss", "Santurkar 2018, Fig. 4a"),
        Column("gradient_change_l2", "float64", "||grad L(w_eta) - g||", "loss/weight", "Santurkar 2018, Fig. 4b"),
        Column("gradient_norm", "float64", "||g||", "loss/weight"),
        Column("predicted_change", "float64", "g.d, the first-order change of the loss for d = w_eta - w", "loss"),
        Column("taylor_error", "float64", "|L(w + d) - L(w) - g.d| / |g.d|"),
        LEARNING_RATE,
        NULL_REASON,
    ),
)

CURVATURE = Table(
    "curvature",
    "step",
    (STEP,),
    (
        Column("hessian_max_eigenvalue", "float64", "largest eigenvalue of the Hessian on the batch", "loss/weight^2"),
        Column("hessian_eigenvalues", "list<float64>", "largest eigenvalues, descending", "loss/weight^2"),
        Column("batch_sharpness", "float64", "g.Hg / ||g||^2", "loss/weight^2", "arXiv 2412.20553"),
        LEARNING_RATE,
        Column("two_over_lr", "float64", "2 / learning_rate, the edge of stability", "loss/weight^2", "Cohen 2021"),
        Column("num_products", "int64", "Hessian-vector products spent"),
        NULL_REASON,
    ),
)

TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        STEPS,
        ACTIVATIONS,
        GRADIENTS,
        NORMALIZATION,
        DRIFT,
        GRADIENT_SHIFT,
        ATTRIBUTION,
        GRADIENT_LINE,
        CURVATURE,
    )
}


def table_named(name: str) -> Table:
    """Return the table called `name`; raises `SelectionError` with near matches if there is none."""
    if name not in TABLES:
        raise unknown_name("table", name, TABLES)
    return TABLES[name]
