"""Routers that the paper compares with, and closed-form ridge regression of the gains.

Definitions: arXiv 2409.02685, section 4 and appendix A.1. All of them read the base's route embedding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

from routerretriever.bench.query_set import Queries
from routerretriever.bench.systems import Known, System, Weights, one_hot
from routerretriever.routing.candidates import BASE

_SEED = 0


def unique_best(gains: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows whose best expert is unique (m,), and that expert (m,)."""
    best = gains.argmax(axis=1)
    unique = (gains == gains.max(axis=1, keepdims=True)).sum(axis=1) == 1
    rows = np.flatnonzero(unique)
    return rows, best[rows]


def balanced(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Positions with equally many of every class that occurs."""
    generator = np.random.default_rng(_SEED)
    counts = np.bincount(labels, minlength=classes)
    size = counts[counts > 0].min()
    picks = []
    for label in range(classes):
        if counts[label]:
            shuffled = generator.permutation(np.flatnonzero(labels == label))
            picks.append(shuffled[:size])
    return np.concatenate(picks)


class ExpertClassifierRouter(System):
    """A binary classifier for every expert; the most confident one wins (Shen et al. 2024).

    Labels: the expert with the best nDCG@10, on queries where it is unique; positives and negatives balanced.
    """

    def fit(self, known: Known) -> None:
        self.experts = known.experts
        rows, best = unique_best(known.gains)
        embeddings = known.embeddings[rows]
        self.classifiers: dict[int, LogisticRegression] = {}
        for column in range(len(self.experts)):
            labels = (best == column).astype(np.int64)
            if 0 < labels.sum() < len(labels):
                picks = balanced(labels, 2)
                self.classifiers[column] = LogisticRegression(max_iter=1000).fit(
                    embeddings[picks], labels[picks]
                )

    def weights(self, queries: Queries) -> Weights:
        scores = np.full((len(queries), len(self.experts)), -1.0)
        for column, classifier in self.classifiers.items():
            scores[:, column] = classifier.predict_proba(queries.route_embeddings)[:, 1]
        return one_hot(self.experts, scores.argmax(axis=1))


class ClassificationHeadRouter(System):
    """One linear layer over all experts, the same number of queries for every label (Muqeeth et al. 2024)."""

    def fit(self, known: Known) -> None:
        self.experts = known.experts
        rows, best = unique_best(known.gains)
        picks = balanced(best, len(self.experts))
        self.head = LogisticRegression(max_iter=1000).fit(known.embeddings[rows][picks], best[picks])

    def weights(self, queries: Queries) -> Weights:
        return one_hot(self.experts, self.head.predict(queries.route_embeddings))


class DatasetRouter(System):
    """The nearest of 100 random training queries a collection decides by where it comes from.

    Ye et al. 2022 and Jang et al. 2023, as the paper uses them.
    """

    def fit(self, known: Known) -> None:
        self.experts = known.experts
        samples = [known.train_sample[name] for name in self.experts]
        sizes = list(map(len, samples))
        self.anchors = np.concatenate(samples)
        self.owner = np.repeat(np.arange(len(self.experts)), sizes)

    def weights(self, queries: Queries) -> Weights:
        nearest = (queries.route_embeddings @ self.anchors.T).argmax(axis=1)
        return one_hot(self.experts, self.owner[nearest])


class RidgeRouter(System):
    """Ridge regression of every expert's gain on the route embedding, in closed form; base where none is predicted."""

    def __init__(self, penalty: float = 1.0) -> None:
        self.penalty = penalty

    def fit(self, known: Known) -> None:
        self.names = (BASE, *known.experts)
        self.model = Ridge(alpha=self.penalty).fit(known.embeddings, known.gains)

    def weights(self, queries: Queries) -> Weights:
        predicted = np.asarray(self.model.predict(queries.route_embeddings)).reshape(len(queries), -1)
        scores = np.concatenate([np.zeros((len(queries), 1)), predicted], axis=1)
        return one_hot(self.names, scores.argmax(axis=1))
