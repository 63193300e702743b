from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ics.stats import cosine, distance, distances, dot, norm, norms, use_backend

SHAPES = ((3, 4), (5,), (2, 2, 2), (0, 3), ())
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def make(seed, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    whole = [torch.randn(shape, generator=generator, dtype=torch.float64) * scale for shape in SHAPES]
    return [tensor.to(dtype) for tensor in whole]


def flat(tensors):
    return np.concatenate([tensor.double().numpy().ravel() for tensor in tensors])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_four_equal_numpys_on_the_concatenated_vector(dtype):
    a, b = make(0, dtype), make(1, dtype)
    x, y = flat(a), flat(b)
    assert float(norm(a)) == pytest.approx(np.linalg.norm(x), rel=1e-14)
    assert float(dot(a, b)) == pytest.approx(x @ y, rel=1e-13)
    assert float(cosine(a, b)) == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-13)
    differences = flat([u - v for u, v in zip(a, b, strict=True)])
    assert float(distance(a, b)) == pytest.approx(np.linalg.norm(differences), rel=1e-14)
    assert {measure.dtype for measure in (norm(a), dot(a, b), distance(a, b), cosine(a, b))} == {torch.float64}
    assert norm(a).shape == dot(a, b).shape == distance(a, b).shape == cosine(a, b).shape == ()


def test_tensors_of_many_parts():
    a, b = [torch.randn(3, 70_000)], [torch.randn(3, 70_000)]
    x, y = flat(a), flat(b)
    assert float(norm(a)) == pytest.approx(np.linalg.norm(x), rel=1e-13)
    assert float(dot(a, b)) == pytest.approx(math.fsum(x * y), rel=1e-10)


def test_memory_layout_does_not_matter():
    a, b = torch.randn(6, 7, 3, 3), torch.randn(6, 7, 3, 3)
    c = b.to(memory_format=torch.channels_last)
    for measure in (dot, distance, cosine):
        assert torch.equal(measure([a], [b]), measure([a], [c]))
    assert torch.equal(norm([b]), norm([c]))
    assert (float(distance([b], [c])), float(cosine([b], [c]))) == (0, 1)


def test_a_sum_of_norms_is_not_the_norm():
    a = make(0)
    assert float(norm(a)) < sum(float(tensor.norm()) for tensor in a) * 0.9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-(2.0**60), 2.0**60, width=32), max_size=9), st.sampled_from(DTYPES))
def test_identical_vectors_have_distance_0_and_cosine_1_exactly(values, dtype):
    a = torch.tensor(values, dtype=torch.float64).clamp(-6e4, 6e4).to(dtype)
    assert float(distance([a], [a.clone()])) == 0
    assert float(dot([a], [a])) == pytest.approx(float(norm([a])) ** 2)
    if float(a.abs().sum()) > 0:
        assert float(cosine([a], [a.clone()])) == 1
    else:
        assert math.isnan(float(cosine([a], [a.clone()])))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 100.0))
def test_cosine_is_of_the_angle_alone(seed, factor):
    a, b = make(seed, torch.float64), make(seed + 1, torch.float64)
    assert -1 <= float(cosine(a, b)) <= 1
    assert float(cosine(a, [factor * tensor for tensor in b])) == pytest.approx(float(cosine(a, b)), abs=1e-14)
    opposite = float(cosine(a, [-factor * tensor for tensor in a]))
    assert opposite == pytest.approx(-1, abs=1e-15)
    assert opposite >= -1


def test_a_zero_vector_has_no_direction():
    for dtype in DTYPES:
        zero, one = [torch.zeros(3, dtype=dtype)], [torch.ones(3, dtype=dtype)]
        assert math.isnan(float(cosine(zero, one)))
        assert math.isnan(float(cosine(one, zero)))
        assert math.isnan(float(cosine(zero, zero)))


def test_tiny_and_huge_vectors_keep_their_angle():
    expected = float(cosine(make(0, torch.float64), make(1, torch.float64)))
    a, b = make(0, torch.float64, 1e-200), make(1, torch.float64, 1e200)
    assert float(cosine(a, b)) == pytest.approx(expected, rel=1e-12)
    a, b = make(0, torch.float32, 1e-30), make(1, torch.float32, 1e30)
    assert float(cosine(a, b)) == pytest.approx(expected, rel=1e-5)
    assert float(norm(a)) == pytest.approx(np.linalg.norm(flat(a)), rel=1e-13)


def test_the_difference_is_formed_in_the_tensors_own_type():
    before, after = torch.tensor([1.0, 1e8]), torch.tensor([1.0 + 1e-7, 1e8 + 8])
    assert float(distance([after], [before])) == float((after - before).double().norm())


def test_no_tensors_are_the_vector_of_no_entries():
    assert (float(norm([])), float(dot([], [])), float(distance([], []))) == (0, 0, 0)
    assert math.isnan(float(cosine([], [])))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch 2.11 warns even where they are asked for
def test_sparse_gradients_are_measured_as_what_they_stand_for():
    sparse = torch.sparse_coo_tensor([[0, 0, 2]], torch.tensor([[1.0], [2.0], [4.0]]), (3, 1), check_invariants=True)
    assert float(norm([sparse])) == 5
    assert float(distance([sparse], [sparse.to_dense()])) == 0


def test_nan_is_not_hidden():
    a = [torch.tensor([math.nan, 1.0])]
    assert all(math.isnan(float(value)) for value in (norm(a), dot(a, a), distance(a, a), cosine(a, a)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_norms_of_each_tensor_are_those_taken_one_by_one(dtype: torch.dtype) -> None:
    shapes = [(3,), (), (40, 50), (0,), (300, 500), (2, 3, 4)]  # (300, 500) is more than a part
    a, b = ([torch.randn(shape).to(dtype) for shape in shapes] for _ in range(2))
    one_by_one = [np.linalg.norm(x.double().numpy().ravel()) for x in a]
    np.testing.assert_allclose(norms(a).numpy(), one_by_one, rtol=1e-14)
    differences = [np.linalg.norm((x - y).double().numpy().ravel()) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(distances(a, b).numpy(), differences, rtol=1e-14)
    assert norm(a).item() == pytest.approx(np.linalg.norm(one_by_one), rel=1e-14)
    assert distance(a, b).item() == pytest.approx(np.linalg.norm(differences), rel=1e-14)
    assert norms([]).shape == (0,)


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_long_vectors_are_measured_as_numpy_does(backend: str) -> None:
    use_backend(backend)
    try:
        generator = torch.Generator().manual_seed(0)
        a = [torch.randn(shape, generator=generator) for shape in ((600, 500), (7,), (0,), (33, 5, 2))]
        b = [x + 1e-3 * torch.randn(x.shape, generator=generator) for x in a]
        a[3], b[3] = a[3].transpose(0, 2), b[3].transpose(0, 2)
        x, y, d = (
            torch.cat([part.double().flatten() for part in v])
            for v in (a, b, [p - q for p, q in zip(a, b, strict=True)])
        )
        assert norm(a).item() == pytest.approx(np.linalg.norm(x), rel=1e-12)
        assert distance(a, b).item() == pytest.approx(np.linalg.norm(d), rel=1e-12)
        assert cosine(a, b).item() == pytest.approx(float(x @ y) / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-12)
        assert cosine(a, a).item() == 1.0
        assert distance(a, a).item() == 0.0
        np.testing.assert_allclose(norms(a), [np.linalg.norm(part.double().flatten()) for part in a], rtol=1e-12)
        a[1][0] = torch.nan
        assert norm(a).isnan()
        assert distance(a, b).isnan()
    finally:
        use_backend("auto")
