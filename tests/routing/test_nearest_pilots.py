"""The fast comparison of queries with pilots against the plain one."""

import copy
import pickle

import pytest
import torch
from torch.nn.functional import normalize

from routerretriever.kernels.quantization import int8_product
from routerretriever.routing import nearest_pilots as similarity
from routerretriever.routing.nearest_pilots import PilotVectors, Similarities


@pytest.fixture
def vectors():
    """Queries and points in tight clusters, as pilots of collections are."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 64, generator=generator)
    points = centres[torch.arange(4000) % 40] + 0.3 * torch.randn(4000, 64, generator=generator)
    queries = centres[torch.arange(100) % 40] + 0.3 * torch.randn(100, 64, generator=generator)
    return normalize(queries, dim=1), normalize(points, dim=1)


@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("half", [True, False])
def test_ranked_roughly_and_compared_exactly_the_nearest_are_the_same(vectors, monkeypatch, k, half):
    queries, points = vectors
    monkeypatch.setattr(similarity, "_ranking", lambda points: None)
    plain = Similarities(queries, PilotVectors(points)).nearest(k)
    monkeypatch.undo()
    monkeypatch.setattr(similarity, "has_bfloat16", lambda device: half)
    ranking = PilotVectors(points)
    if ranking.ranking is None and not half:
        pytest.skip("this torch has no product of 8-bit integers")
    fast = Similarities(queries, ranking).nearest(k)
    torch.testing.assert_close(fast.values, plain.values, atol=1e-6, rtol=0)
    assert (fast.indices == plain.indices).float().mean() > 0.999  # but for ties


def test_what_the_ranking_gives_is_rough_but_no_more(vectors):
    queries, points = vectors
    product = int8_product(points)
    if product is None:
        pytest.skip("this torch has no product of 8-bit integers")
    error = (product(queries) - queries @ points.T).abs().max()
    assert 0 < error < 0.02


def test_without_a_rough_product_all_is_exact(vectors, monkeypatch):
    queries, points = vectors
    monkeypatch.setattr(similarity, "has_bfloat16", lambda device: False)
    monkeypatch.delattr(torch, "quantize_per_channel")
    exact = PilotVectors(points)
    assert exact.ranking is None
    found = Similarities(queries, exact).nearest(5)
    assert torch.equal(found.values, (queries @ points.T).topk(5, dim=1).values)


def test_points_can_be_copied_and_sent_elsewhere(vectors):
    queries, points = vectors
    before = PilotVectors(points)
    for after in (copy.deepcopy(before), pickle.loads(pickle.dumps(before))):
        a, b = (Similarities(queries, each).nearest(9).indices for each in (before, after))
        assert torch.equal(a, b)


def test_few_points_are_compared_exactly(vectors):
    queries, points = vectors
    few = PilotVectors(points[: similarity.MIN_RANKED - 1])
    assert few.ranking is None
    everyone = Similarities(queries, few).nearest(10_000)
    assert everyone.indices.shape == (100, similarity.MIN_RANKED - 1)
    assert torch.equal(everyone.values, everyone.values.sort(dim=1, descending=True).values)


def test_the_nearest_are_found_once(vectors):
    queries, points = vectors
    similarities = Similarities(queries, PilotVectors(points))
    assert similarities.nearest(7) is similarities.nearest(7)
