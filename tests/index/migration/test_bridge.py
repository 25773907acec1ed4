"""The map from the queries of one base to the documents of another."""

import numpy as np
import pytest

from routerretriever.errors import VectorIndexError
from routerretriever.index.migration.bridge import Bridge, fit_bridge, procrustes, ridge


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("new", "old"), [(24, 24), (24, 16), (16, 24)])
def test_a_rotation_is_found(new, old):
    rng = np.random.default_rng(1)
    hidden = unit(rng.normal(size=(400, 16)))
    turned = [np.linalg.qr(rng.normal(size=(size, size)))[0][:16] for size in (new, old)]
    in_new, in_old = (hidden @ turn for turn in turned)
    bridge = fit_bridge(in_new.astype(np.float32), in_old.astype(np.float32))
    assert bridge.matrix.shape == (new, old)
    assert bridge.figures[bridge.method].keeps_new > 0.99
    queries = unit(rng.normal(size=(5, 16)))
    np.testing.assert_allclose(
        bridge.old_vectors((queries @ turned[0]).astype(np.float32)), queries @ turned[1], atol=1e-3
    )


def test_the_method_that_keeps_more_neighbours_is_chosen():
    rng = np.random.default_rng(2)
    old = unit(rng.normal(size=(600, 12)))
    stretched = unit(old * np.geomspace(1, 30, 12))
    bridge = fit_bridge(stretched, old)
    assert set(bridge.figures) == {"procrustes", "ridge"}
    best = max(bridge.figures, key=lambda name: bridge.figures[name].keeps_new)
    assert bridge.method == best


def test_procrustes_keeps_lengths_and_ridge_fits_closer():
    rng = np.random.default_rng(3)
    new, old = unit(rng.normal(size=(200, 10))), unit(rng.normal(size=(200, 8)))
    turn = procrustes(new, old)
    np.testing.assert_allclose(turn.T @ turn, np.eye(8), atol=1e-6)
    errors = [np.linalg.norm(new @ fit(new, old) - old) for fit in (procrustes, ridge)]
    assert errors[1] < errors[0]


def test_few_documents_are_not_measured():
    vectors = unit(np.random.default_rng(0).normal(size=(15, 8)))
    bridge = fit_bridge(vectors, vectors)
    assert (bridge.figures, bridge.method) == ({}, "procrustes")
    np.testing.assert_allclose(bridge.old_vectors(vectors), vectors, atol=1e-5)


def test_vectors_of_another_length_are_refused():
    with pytest.raises(VectorIndexError, match="8 dimensions, not 7"):
        Bridge(matrix=np.eye(8, dtype=np.float32), method="procrustes", figures={}).old_vectors(
            np.ones((1, 7), np.float32)
        )
