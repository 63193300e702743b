"""Look at a forward and backward pass and change nothing: layers, sites, statistics."""

from ics.probes.layers import find_layers, module_names, select_layers, strip_prefixes
from ics.probes.parameter_numbers import GradientNumbers, ParameterNumbers, ParameterWatch
from ics.probes.parameters import parameter_block, parameter_rows
from ics.probes.plan import Plans
from ics.probes.probes import Probes

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
