"""Measure forward and backward passes without changing them: layers, sites, statistics."""

from ics.probes.parameters.kernels import GradientNumbers, ParameterNumbers, ParameterWatch
from ics.probes.parameters.rows import parameter_block, parameter_rows
from ics.probes.planned.plan_cache import Plans
from ics.probes.probes import Probes
from ics.probes.structure.layers import find_layers, module_names, select_layers, strip_prefixes

__all__ = [
    "GradientNumbers",
    "ParameterNumbers",
    "ParameterWatch",
    "Plans",
    "Probes",
    "find_layers",
    "module_names",
    "parameter_block",
    "parameter_rows",
    "select_layers",
    "strip_prefixes",
]
