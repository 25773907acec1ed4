"""One ranking from vectors and words."""

import numpy as np
import pytest

from routerretriever.words.fuse import best_first, fuse, regularised


def fused(similarities, word_scores, **given):
    return fuse(np.array(similarities), np.array(word_scores), **given).tolist()


def test_fusion_is_the_convex_combination():
    scores = fused([0.9, 0.5, -1.0], [0.0, 8.0, 4.0], weight=0.75, lowest=-1.0)
    assert scores == pytest.approx([0.75, 0.75 * 1.5 / 1.9 + 0.25, 0.125])


def test_without_a_least_similarity_the_lowest_candidate_has_none():
    assert fused([3.0, 1.0], [0.0, 0.0], weight=0.5) == pytest.approx([0.5, 0.0])


def test_nothing_found_is_nothing_fused():
    assert fused([], [], weight=0.5) == []


def test_equal_scores_are_no_division_by_zero():
    assert fused([-1.0], [0.0], weight=0.5, lowest=-1.0) == [0.5]


@pytest.mark.parametrize(("weight", "first"), [(1.0, 0), (0.0, 1)])
def test_the_weight_decides(weight, first):
    scores = fuse(np.array([0.9, 0.1]), np.array([1.0, 9.0]), weight=weight, lowest=-1.0)
    assert best_first(scores, 1).tolist() == [first]


def test_neighbours_draw_similarities_together():
    documents = np.array([[1, 0], [1, 0.01], [1, 0.02], [1, 0.03], [0, 1]], np.float32)
    similarities = np.array([0.9, 0.5, 0.5, 0.5, 0.8])
    drawn = regularised(similarities, documents)
    assert drawn[0] == pytest.approx(0.8 * 0.9 + 0.2 * 0.5)
    assert drawn[1] > 0.5
    assert regularised(similarities[:3], documents[:3]).tolist() == similarities[:3].tolist()


def test_equal_scores_keep_their_order():
    assert best_first(np.array([1.0, 2.0, 2.0, 0.0]), 3).tolist() == [1, 2, 0]
