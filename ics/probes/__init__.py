"""Look at a forward and backward pass and change nothing: layers, sites, statistics."""

from ics.probes.layers import find_layers, module_names, select_layers, strip_prefixes
from ics.probes.parameters import parameter_block
from ics.probes.plan import Plans
from ics.probes.probes import Probes

__all__ = [
    "Plans",
    "Probes",
    "find_layers",
    "module_names",
    "parameter_block",
    "select_layers",
    "strip_prefixes",
]
