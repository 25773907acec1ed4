"""Pilots and training queries in two dimensions, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Self

import numpy as np
from numpy.typing import NDArray

from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.nearest_pilots import largest
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import softmax
from routerretriever.server.schemas.routes import MapPoint

MAX_POINTS = 1200
_NEIGHBOURS = 5
_TEMPERATURE = 0.05
_LEAST_FOR_TSNE = 30


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PilotMap:
    """A drawn map.

    Attributes:
        points: what is shown.
        places: the points' coordinates within -1..1 (n, 2).
        rows: the points' pilots (n,).
        policy: whose pilots they are.
    """

    points: tuple[MapPoint, ...]
    places: NDArray[np.float64]
    rows: NDArray[np.int64]
    policy: RoutingPolicy

    @classmethod
    def draw(cls, policy: RoutingPolicy) -> Self:
        """Lay out a sample of the pilots so that those near in the router's space are near each other."""
        library = policy.library
        router = policy.router
        rows = _sample(np.array(library.sources), library.measured)
        places = _layout(router.vectors.exact[rows])
        # Under the paper's rules an expert without a pilot scores less than any number.
        scores = np.nan_to_num(router.scores(library.centroids[rows]), neginf=-1.0)
        best = scores.argmax(axis=1).tolist()
        points = tuple(
            MapPoint(
                x=round(float(x), 4),
                y=round(float(y), 4),
                example=library.examples[row],
                collection=library.sources[row],
                expert=policy.candidates[column],
                gain=round(float(scores[number, column]), 4),
                measured=bool(library.measured[row]),
            )
            for number, (row, column, (x, y)) in enumerate(zip(rows.tolist(), best, places, strict=True))
        )
        return cls(points=points, places=places, rows=rows, policy=policy)

    def place(self, route_embeddings: Vectors) -> list[tuple[float, float]]:
        """Return where queries (n, d_route) belong: among the nearest points, closer to more similar ones."""
        similarities = self.policy.router.similarities(route_embeddings).all()[:, self.rows]
        nearest = largest(similarities, min(_NEIGHBOURS, len(self.rows)))
        shares = softmax(nearest.values / _TEMPERATURE)
        found = np.einsum("nk,nkd->nd", shares, self.places[nearest.indices])
        return [(round(float(x), 4), round(float(y), 4)) for x, y in found]


def _sample(sources: NDArray[np.str_], measured: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return rows of an even share of every collection, half of it measured pilots if there are enough."""
    rng = np.random.default_rng(0)
    names = list(dict.fromkeys(sources.tolist()))
    share = max(2, MAX_POINTS // len(names))
    chosen: list[NDArray[np.int64]] = []
    for name in names:
        own, others = (np.flatnonzero((sources == name) & kind) for kind in (measured, ~measured))
        first = rng.permutation(own)[: max(share // 2, share - len(others))]
        chosen += [first, rng.permutation(others)[: share - len(first)]]
    return np.sort(np.concatenate(chosen))


def _layout(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    places = np.zeros((len(vectors), 2))
    # An install without the training extra has no t-SNE; the main directions show less, but not nothing.
    if len(vectors) < _LEAST_FOR_TSNE or find_spec("sklearn") is None:
        found = _principal_components(vectors)
    else:
        from sklearn.manifold import TSNE

        method = TSNE(metric="cosine", init="pca", random_state=0, n_jobs=1)
        found = method.fit_transform(vectors)
    places[:, : found.shape[1]] = found
    places -= (places.max(axis=0) + places.min(axis=0)) / 2
    return np.asarray(places / max(float(np.abs(places).max()), 1e-9))


def _principal_components(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the coordinates of vectors (n, d) along their first two main directions, or the one there is."""
    centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
    found: NDArray[np.float64] = centred @ directions.T
    return found
