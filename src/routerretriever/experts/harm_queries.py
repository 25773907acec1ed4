"""The held-out queries of a collection, ready to be routed with an expert and without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.encoder.query_batch import PreparedQueries, prepare_queries
from routerretriever.errors import LibraryError
from routerretriever.evaluation.gains import measure_gains
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.experts.held_out import Values
from routerretriever.kernels.vectors import Vectors
from routerretriever.progress import Progress
from routerretriever.routing.form_pilots import Measurement
from routerretriever.routing.pilot_library import PilotLibrary


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HarmQueries:
    """The held-out queries of one collection.

    Attributes:
        collection: where they are from.
        split: the queries and their judgements.
        documents: of the collection.
        queries: encoded up to the branch layer.
        measured: gain of every expert on them.
    """

    collection: Collection
    split: Split
    documents: DocumentVectors
    queries: PreparedQueries
    measured: Measurement

    @classmethod
    def prepare(
        cls, model: RoutedModel, collection: Collection, library: PilotLibrary, progress: Progress
    ) -> Self:
        """Encode the held-out queries and measure all experts on them.

        Raises:
            LibraryError: the library's pilots of the collection are not among them.
        """
        split = collection.train_and_held_out()[1]
        texts = list(split.queries.values())
        _check_same_queries(library, collection.name, texts)
        queries = prepare_queries(model.encoder, texts, model.query_prompt)
        documents = model.embed_collection(collection, progress=progress)
        measured = measure_gains(model, collection, queries=queries, documents=documents, progress=progress)
        return cls(
            collection=collection, split=split, documents=documents, queries=queries, measured=measured
        )

    def __len__(self) -> int:
        return len(self.queries)

    def base_scores(self, model: RoutedModel) -> Values:
        """Return nDCG@10 of every query under the base."""
        return self._ndcg(model, self.queries.vectors(None))

    def scores(self, model: RoutedModel, weights: Tensor) -> Values:
        """Return nDCG@10 of every query.

        Args:
            model: its experts are the columns.
            weights: of each expert's delta for each query (n, E).
        """
        placed = weights.to(model.device)
        return self._ndcg(model, self.queries.vectors_by(lambda rows: model.encoder.mixed_plan(placed[rows])))

    def _ndcg(self, model: RoutedModel, vectors: Vectors) -> Values:
        return ndcg_at_10(vectors, self.split, self.documents, self.collection, model.similarity_fn_name)

    def embeddings(self, rows: NDArray[np.int64]) -> Vectors:
        """Return what the router reads of some queries (n, d_route)."""
        return self.measured.embeddings[rows]


def _check_same_queries(library: PilotLibrary, collection: str, texts: list[str]) -> None:
    measured = {
        text
        for source, text, is_measured in zip(library.sources, library.examples, library.measured, strict=True)
        if source == collection and is_measured
    }
    if missing := measured - set(texts):
        raise LibraryError(
            f"The library's pilots of '{collection}' are not this collection's held-out queries: {len(missing)} "
            f"of them are missing, such as '{min(missing)[:80]}'. Give the data it was measured on, or measure it "
            "again: routerretriever library MODEL COLLECTION…"
        )
