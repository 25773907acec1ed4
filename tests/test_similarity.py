"""The fast comparison of queries with pilots against the plain one."""

import pytest
import torch
from torch.nn.functional import normalize

from routerretriever import similarity
from routerretriever.similarity import Points, Similarities


@pytest.fixture
def vectors():
    """Queries and points in tight clusters, as pilots of collections are."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 64, generator=generator)
    points = centres[torch.arange(4000) % 40] + 0.3 * torch.randn(4000, 64, generator=generator)
    queries = centres[torch.arange(100) % 40] + 0.3 * torch.randn(100, 64, generator=generator)
    return normalize(queries, dim=1), normalize(points, dim=1)


@pytest.mark.parametrize("k", [1, 5, 30])
def test_ranked_in_bfloat16_and_compared_exactly_the_nearest_are_the_same(vectors, monkeypatch, k):
    queries, points = vectors
    monkeypatch.setattr(similarity, "has_bfloat16", lambda device: False)
    plain = Similarities(queries, Points(points)).nearest(k)
    monkeypatch.setattr(similarity, "has_bfloat16", lambda device: True)
    ranking = Points(points)
    assert ranking.ranking is not None
    fast = Similarities(queries, ranking).nearest(k)
    torch.testing.assert_close(fast.values, plain.values, atol=1e-6, rtol=0)
    assert (fast.indices == plain.indices).float().mean() > 0.999  # but for ties


def test_few_points_are_compared_exactly(vectors):
    queries, points = vectors
    few = Points(points[: similarity.MIN_RANKED - 1])
    assert few.ranking is None
    everyone = Similarities(queries, few).nearest(10_000)
    assert everyone.indices.shape == (100, similarity.MIN_RANKED - 1)
    assert torch.equal(everyone.values, everyone.values.sort(dim=1, descending=True).values)


def test_the_nearest_are_found_once(vectors):
    queries, points = vectors
    similarities = Similarities(queries, Points(points))
    assert similarities.nearest(7) is similarities.nearest(7)
