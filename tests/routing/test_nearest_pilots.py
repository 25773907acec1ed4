"""The nearest pilots against a plain sort of all similarities."""

import copy
import pickle

import numpy as np
import pytest

from routerretriever.routing.nearest_pilots import PilotVectors, Similarities, largest


@pytest.fixture
def vectors():
    """Queries and points in tight clusters, as pilots of collections are."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 64))
    points = centres[np.arange(4001) % 40] + 0.3 * rng.normal(size=(4001, 64))
    queries = centres[np.arange(100) % 40] + 0.3 * rng.normal(size=(100, 64))
    return unit(queries), unit(points)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("k", [0, 1, 5, 24, 25, 30, 4000, 4001, 10_000])
@pytest.mark.parametrize("n", [1, 2, 100])
def test_the_nearest_are_the_first_of_all(vectors, n, k):
    """With few of 4,001 asked for, most are never looked at; with many, all are."""
    queries, points = vectors
    found = Similarities(queries[:n], PilotVectors(points)).nearest(k)
    wanted = np.argsort(-(queries[:n] @ points.T), axis=1, kind="stable")[:, :k]
    assert found.values.dtype == np.float32
    assert found.indices.shape == wanted.shape
    assert (found.indices != wanted).sum() <= 0.001 * wanted.size  # but for ties
    cosines = np.take_along_axis(queries[:n] @ points.T, found.indices, 1)
    np.testing.assert_allclose(found.values, cosines, atol=1e-6, rtol=0)
    assert (np.diff(found.values, axis=1) <= 0).all()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("k", [1, 20])
def test_the_largest_are_found_wherever_they_are(order, k):
    """Also among columns behind the last whole stripe, in one stripe together, and equal to one another."""
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=(60, 3999)), 1).astype(np.float32)
    values[0, -k:] = 9
    values[1, ::99][:k] = 9
    values[2] = 1
    found = largest(np.asarray(values, order=order), k)
    np.testing.assert_array_equal(found.values, -np.sort(-values, axis=1)[:, :k])
    np.testing.assert_array_equal(found.values, np.take_along_axis(values, found.indices, 1))
    assert [len(set(row)) for row in found.indices.tolist()] == [k] * 60
    assert set(found.indices[0]) == set(range(3999 - k, 3999))


def test_no_query_has_no_nearest(vectors):
    queries, points = vectors
    for k in (0, 5, 30):
        assert Similarities(queries[:0], PilotVectors(points)).nearest(k).indices.shape == (0, k)


def test_points_can_be_copied_and_sent_elsewhere(vectors):
    queries, points = vectors
    before = PilotVectors(points)
    for after in (copy.deepcopy(before), pickle.loads(pickle.dumps(before))):
        a, b = (Similarities(queries, each).nearest(9).indices for each in (before, after))
        assert np.array_equal(a, b)


def test_the_nearest_are_found_once(vectors):
    queries, points = vectors
    similarities = Similarities(queries, PilotVectors(points))
    assert similarities.nearest(7) is similarities.nearest(7)


@pytest.mark.parametrize("n", [1, 3, 16])
def test_few_queries_find_what_many_do_among_pilots_that_eight_bits_cannot_tell_apart(n):
    """Thousands of pilots lie within the rounding of one another; what is nearest is decided by the exact ones."""
    rng = np.random.default_rng(1)
    queries = unit(rng.normal(size=(64, 48)))
    around = np.repeat(queries[:16], 300, axis=0)
    points = unit(np.concatenate([around + 1e-2 * rng.normal(size=around.shape), rng.normal(size=(500, 48))]))
    pilots = PilotVectors(points)
    few = Similarities(queries[:n], pilots).nearest(30)
    many = largest(queries[:n] @ points.T, 30)
    np.testing.assert_allclose(few.values, many.values, atol=1e-6, rtol=0)
    assert (few.indices != many.indices).mean() < 0.1  # but for ties in fp32
