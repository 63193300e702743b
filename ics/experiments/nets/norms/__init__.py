"""Normalisations by name: those of torch, and those that questions about BatchNorm need.

catalogue    every name with its position, and `make_norm`
channels     what the ones below share: gamma, beta, running averages
detached     BatchNorm whose mean, or mean and variance, is a constant in the gradient
population   normalised by running averages of past steps
power_mean   divided by the average lp norm
noisy        BatchNorm followed by noise whose distribution changes at every step
"""

from ics.experiments.nets.norms.catalogue import NORMS, Norm, make_norm, norm_named
from ics.experiments.nets.norms.detached import DetachedBatchNorm
from ics.experiments.nets.norms.noisy import NoisyBatchNorm1d, NoisyBatchNorm2d
from ics.experiments.nets.norms.population import PopulationNorm
from ics.experiments.nets.norms.power_mean import LpNorm

__all__ = [
    "NORMS",
    "DetachedBatchNorm",
    "LpNorm",
    "NoisyBatchNorm1d",
    "NoisyBatchNorm2d",
    "Norm",
    "PopulationNorm",
    "make_norm",
    "norm_named",
]
