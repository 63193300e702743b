from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ics.stats import cosine, distance, dot, norm


def make(seed, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
        for shape in ((3, 4), (5,), (2, 2, 2))
    ]


def flat(tensors):
    return np.concatenate([tensor.double().numpy().ravel() for tensor in tensors])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_all_four_equal_numpys_on_the_concatenated_vector(dtype):
    a, b = make(0, dtype), make(1, dtype)
    x, y = flat(a), flat(b)
    assert float(norm(a)) == pytest.approx(np.linalg.norm(x), rel=1e-12)
    assert float(dot(a, b)) == pytest.approx(x @ y, rel=1e-12)
    assert float(cosine(a, b)) == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-12)
    assert float(distance(a, b)) == pytest.approx(np.linalg.norm(x - y), rel=1e-2 if dtype == torch.bfloat16 else 1e-6)


def test_a_sum_of_norms_is_not_the_norm():
    a = make(0)
    assert float(norm(a)) < sum(float(tensor.norm()) for tensor in a) * 0.9


def test_identical_vectors_have_distance_0_and_cosine_1_exactly():
    for seed in range(20):
        a = make(seed, scale=10.0 ** (seed - 10))
        assert float(distance(a, [tensor.clone() for tensor in a])) == 0
        assert float(cosine(a, [tensor.clone() for tensor in a])) == 1


def test_a_zero_vector_has_no_direction():
    zero = [torch.zeros(3)]
    assert math.isnan(float(cosine(zero, [torch.ones(3)])))
    assert math.isnan(float(cosine(zero, zero)))


def test_tiny_and_huge_vectors_keep_their_angle():
    a, b = make(0, torch.float64, 1e-200), make(1, torch.float64, 1e200)
    assert float(cosine(a, b)) == pytest.approx(float(cosine(make(0, torch.float64), make(1, torch.float64))), rel=1e-6)


def test_opposite_vectors_have_cosine_minus_1():
    a = make(3)
    assert float(cosine(a, [-2 * tensor for tensor in a])) == pytest.approx(-1, abs=1e-15)
