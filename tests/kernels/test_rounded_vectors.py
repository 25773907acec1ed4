"""Products of rounded vectors are as near as they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerretriever.kernels.rounded_vectors import RoundedVectors


def unit(rows):
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


@given(
    seed=st.integers(0, 10_000),
    dimension=st.sampled_from([1, 3, 64, 384, 2048]),
    spread=st.sampled_from([0.0, 1.0, 8.0]),
)
def test_no_product_is_further_off_than_its_bound(seed, dimension, spread):
    """Of even vectors and of some that a few numbers dominate, whose rounding takes most."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(60, dimension)) * np.exp(spread * rng.normal(size=dimension)))
    queries, rows = vectors[:9], vectors[9:]
    found, bounds = RoundedVectors.of(rows).products(queries)
    exact = queries.astype(np.float64) @ rows.astype(np.float64).T
    assert found.shape == (9, 51)
    assert found.dtype == np.float32
    assert (np.abs(found - exact) <= bounds[:, None]).all()


def test_the_bound_is_of_use():
    """A hundredth or two at the usual size, so that few vectors have to be looked at again."""
    vectors = unit(np.random.default_rng(0).normal(size=(3000, 384)))
    _, bounds = RoundedVectors.of(vectors).products(vectors[:5])
    assert (bounds < 0.03).all()


@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_any_number_of_vectors_is_rounded(rows):
    """More than are rounded at a time; a vector of zeros stays one."""
    vectors = unit(np.random.default_rng(0).normal(size=(rows, 8)))
    if rows:
        vectors[-1] = 0
    rounded = RoundedVectors.of(vectors)
    assert rounded.numbers.dtype == np.int8
    np.testing.assert_allclose(rounded.numbers * rounded.scales[:, None], vectors, atol=0.005)
    assert (rounded.errors < 0.02).all()
