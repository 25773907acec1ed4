"""The bridge: a linear map from the queries of a new base to the documents of an old one.

It is fitted on documents that both bases have encoded. Similarities of mapped queries and documents are those
of queries and documents mapped the other way round by the transposed matrix, so nothing in the index has to
change, and queries that differ from documents are mapped as exactly as those.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routerretriever.errors import VectorIndexError
from routerretriever.index.encoder import Vectors
from routerretriever.index.reports import BridgeFigures

NEIGHBOURS = 10
"""Neighbours of a held-out document that a bridge is to find."""

_HELD_OUT = 0.2  # of the documents
_MOST_HELD_OUT = 500
_LEAST_HELD_OUT = 20  # with fewer, nothing is measured
_RIDGE = 0.1  # of the mean variance of a dimension; between 0.03 and 0.3 nothing changes
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bridge:
    """A map from the vectors of a new base to those of an old one.

    Attributes:
        matrix: (new dimensions, old dimensions).
        method: that was chosen.
        figures: method → what it kept; empty where there were too few documents to measure it.
    """

    matrix: Vectors
    method: str
    figures: Mapping[str, BridgeFigures]

    def old_vectors(self, vectors: Vectors) -> Vectors:
        """Return vectors of the new base (n, d) as the old base might have encoded them.

        Raises:
            VectorIndexError: they are not of the new base's length.
        """
        if vectors.shape[-1] != len(self.matrix):
            raise VectorIndexError(
                f"The new base has vectors of {len(self.matrix)} dimensions, not {vectors.shape[-1]}."
            )
        mapped: Vectors = vectors.astype(np.float32, copy=False) @ self.matrix
        return mapped


def fit_bridge(new: Vectors, old: Vectors) -> Bridge:
    """Fit maps on documents that both bases have encoded, and return the one that keeps most neighbours.

    Args:
        new: vectors of the new base (n, d).
        old: vectors of the same documents in the index (n, e).
    """
    new, old = _unit(new), _unit(old)
    order = np.random.default_rng(_SEED).permutation(len(new))
    count = min(int(_HELD_OUT * len(new)), _MOST_HELD_OUT)
    figures: dict[str, BridgeFigures] = {}
    if count >= _LEAST_HELD_OUT:
        held_out, fitted = order[:count], order[count:]
        for method, fit in METHODS.items():
            figures[method] = _measure(fit(new[fitted], old[fitted]), new, old, held_out)
    method = max(figures, key=lambda name: figures[name].keeps_new, default=next(iter(METHODS)))
    matrix = METHODS[method](new, old).astype(np.float32)
    return Bridge(matrix=matrix, method=method, figures=figures)


def procrustes(new: Vectors, old: Vectors) -> NDArray[Any]:
    """Return the rotation nearest to mapping one onto the other (d, e); semi-orthogonal where d differs from e."""
    left, _, right = np.linalg.svd(new.T.astype(np.float64) @ old, full_matrices=False)
    rotation: NDArray[Any] = left @ right
    return rotation


def ridge(new: Vectors, old: Vectors) -> NDArray[Any]:
    """Return the regularised least-squares map (d, e)."""
    products = new.T.astype(np.float64) @ new
    weight = _RIDGE * np.trace(products) / len(products)
    solved: NDArray[Any] = np.linalg.solve(products + weight * np.eye(len(products)), new.T @ old)
    return solved


METHODS: Mapping[str, Callable[[Vectors, Vectors], NDArray[Any]]] = {"procrustes": procrustes, "ridge": ridge}


def _measure(matrix: NDArray[Any], new: Vectors, old: Vectors, held_out: NDArray[np.intp]) -> BridgeFigures:
    """Return what mapped held-out documents find among all others."""
    found = _nearest(new[held_out] @ matrix @ old.T, held_out)
    return BridgeFigures(
        keeps_new=round(_shared(found, _nearest(new[held_out] @ new.T, held_out)), 4),
        keeps_old=round(_shared(found, _nearest(old[held_out] @ old.T, held_out)), 4),
    )


def _nearest(similarities: NDArray[Any], own: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the nearest documents of each (n, k), itself left out."""
    similarities[np.arange(len(own)), own] = -np.inf
    nearest: NDArray[np.intp] = np.argpartition(-similarities, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    return nearest


def _shared(found: NDArray[np.intp], wanted: NDArray[np.intp]) -> float:
    shared = [len(np.intersect1d(*pair)) for pair in zip(found, wanted, strict=True)]
    return float(np.mean(shared)) / NEIGHBOURS


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def matrix_bytes(matrix: Vectors) -> bytes:
    """Return the content of a file for a matrix."""
    file = io.BytesIO()
    np.save(file, matrix, allow_pickle=False)
    return file.getvalue()


def matrix_of(content: bytes) -> Vectors:
    """Return what :func:`matrix_bytes` wrote."""
    matrix: Vectors = np.load(io.BytesIO(content), allow_pickle=False)
    return matrix
