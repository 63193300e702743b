"""The fixed histogram buckets: linear within each octave of magnitude, and signed.

A value x with 2^e <= |x| < 2^(e+1) falls into sub-bucket floor((|x|/2^e - 1) * 16) of octave e. Octaves run from
-32 to 31, so magnitudes from 2.3e-10 to 4.3e9 are told apart; smaller ones share the zero bucket, larger ones an
overflow bucket per sign. Buckets are numbered by signed integers in the order of the values they hold:

    -1025 overflow | -1024 .. -1 negative | 0 zero | 1 .. 1024 positive | 1025 overflow

Because the edges never depend on the data, histograms add up exactly over micro-batches, ranks and steps. The
midpoint of a bucket is within 1/32 (3.1 %) of every value in it. Same idea as HdrHistogram and DDSketch.
"""

from __future__ import annotations

SUB_BUCKETS = 16
LOWEST_EXPONENT = -32
HIGHEST_EXPONENT = 31
NUM_OCTAVES = HIGHEST_EXPONENT - LOWEST_EXPONENT + 1
NUM_MAGNITUDES = NUM_OCTAVES * SUB_BUCKETS
OVERFLOW = NUM_MAGNITUDES + 1
NUM_BUCKETS = 2 * OVERFLOW + 1
RELATIVE_ERROR = 0.5 / SUB_BUCKETS
SMALLEST = 2.0**LOWEST_EXPONENT
LARGEST = 2.0 ** (HIGHEST_EXPONENT + 1)


def bucket_edges(bucket: int) -> tuple[float, float]:
    """Return the lower and upper edge of a signed bucket number.

    Example:
        >>> bucket_edges(0) == (-(2.0**-32), 2.0**-32)
        True
        >>> bucket_edges(1 + 32 * 16)  # the first sub-bucket of the octave of 1
        (1.0, 1.0625)
        >>> bucket_edges(-(1 + 32 * 16))
        (-1.0625, -1.0)
    """
    if bucket == 0:
        return -SMALLEST, SMALLEST
    if bucket < 0:
        lower, upper = bucket_edges(-bucket)
        return -upper, -lower
    if bucket >= OVERFLOW:
        return LARGEST, float("inf")
    octave, sub = divmod(bucket - 1, SUB_BUCKETS)
    scale = 2.0 ** (octave + LOWEST_EXPONENT)
    return scale * (1 + sub / SUB_BUCKETS), scale * (1 + (sub + 1) / SUB_BUCKETS)
