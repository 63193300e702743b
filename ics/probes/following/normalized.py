"""Statistics of x-hat, from the input of the normalisation where that can be done without making x-hat."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ics import stats
from ics.probes.normalization.terms import batch_statistics, is_plain_batchnorm, normalized, uses_batch_statistics

_MEAN, _M2, _NONFINITE = (stats.PACKED.index(name) for name in ("mean", "m2", "nonfinite_count"))


def reduce_normalized(
    module: nn.Module, x: Tensor, *, axis: int, of_input: stats.Reduced | None = None, histogram: bool = True
) -> stats.Reduced:
    """Measure x-hat of a normalisation whose formula is known, given its input `x`.

    BatchNorm's x-hat is `(x - mean) / sqrt(variance + eps)` per channel: one more read of `x`, nothing is written. Of
    other normalisations x-hat is made first.

    Args:
        module: the normalisation; see `has_of_input_formula`.
        x: its input.
        axis: the channel axis of x-hat.
        of_input: the statistics of `x` along the same axis, if they have been measured.
        histogram: whether to count the histogram.
    """
    if is_plain_batchnorm(module) and x.ndim > 1:
        affine = _affine(module, x, of_input)
        return stats.reduce(x, channel_axis=axis, affine=affine, histogram=histogram)
    return stats.reduce(normalized(module, x), channel_axis=axis, histogram=histogram)


def _affine(module: Any, x: Tensor, of_input: stats.Reduced | None) -> tuple[Tensor, Tensor]:
    """Return the mean that a BatchNorm subtracts and the factor that it multiplies by, each (C,)."""
    if not uses_batch_statistics(module):
        return module.running_mean, (module.running_var + module.eps).rsqrt()
    if of_input is None:
        batch = batch_statistics(x)
        return batch.mean, (batch.variance + module.eps).rsqrt()
    # The normalisation spreads a value that is not finite over its channel; the statistics of x leave it out.
    if of_input.moments.is_cpu:  # numpy's calls take a fifth of the time of torch's, on which small models depend
        moments = of_input.moments.numpy()
        kind = np.float64 if x.dtype == torch.float64 else np.float32  # what the differences are formed in
        mean, scale = moments[_MEAN].astype(kind), (1.0 / np.sqrt(moments[_M2] + module.eps)).astype(kind)
        # A copy of the moments: `astype` made one, so the statistics of x stay as they are.
        if moments[_NONFINITE].any():
            mean[moments[_NONFINITE] > 0] = np.nan
        return torch.from_numpy(mean), torch.from_numpy(scale)
    mean = torch.where(of_input.moments[_NONFINITE] > 0, torch.nan, of_input.moments[_MEAN])
    return mean, (of_input.moments[_M2] + module.eps).rsqrt()
