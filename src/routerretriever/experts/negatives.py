"""The documents that training queries are ranked against, and the loss of their ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.errors import CollectionError
from routerretriever.evaluation.runs import own_documents
from routerretriever.experts.training_config import TrainingConfig
from routerretriever.kernels.exact_search import as_similarity, top_k
from routerretriever.kernels.vectors import Vectors


class RankedDocuments(NamedTuple):
    """What a batch of n queries is ranked against.

    Attributes:
        vectors: of m documents (m, d), ready for a dot product.
        positive: whether a document is relevant to a query (n, m).
        ignored: whether it is neither positive nor negative (n, m); ``None`` if there is no such.
    """

    vectors: Tensor
    positive: Tensor
    ignored: Tensor | None


class Negatives:
    """The documents a batch is ranked against, and which of them are relevant.

    Raises:
        CollectionError: a query has no relevant document.
    """

    def __init__(
        self,
        model: RoutedModel,
        collection: Collection,
        train: Split,
        documents: Vectors,
        config: TrainingConfig,
    ) -> None:
        column = {document_id: place for place, document_id in enumerate(collection.document_ids)}
        self.config = config
        self.positives = [_positives(collection, train, query_id, column) for query_id in train.queries]
        self.identical = own_documents(train, collection).tolist()
        prepared = as_similarity(torch.from_numpy(documents), model.similarity_fn_name)
        self.documents = prepared.to(model.device)

        self.mined: list[list[int]] = []
        if not config.in_batch and len(documents) > config.corpus_limit:
            vectors = model.encode_query(list(train.queries.values()), expert="base")
            found = top_k(vectors, documents, config.hard_negatives + 1, model.similarity_fn_name)
            self.mined = [columns.tolist() for columns in found.columns]

    def candidates(self, rows: Sequence[int]) -> RankedDocuments:
        """Return the documents that some queries are ranked against."""
        columns = self._columns(rows)
        every = columns is None
        place = range(len(self.documents)) if columns is None else {c: at for at, c in enumerate(columns)}
        vectors = self.documents if columns is None else self.documents[columns]

        positive = torch.zeros(len(rows), len(vectors), dtype=torch.bool)
        ignored = torch.zeros_like(positive)
        for number, row in enumerate(rows):
            positive[
                number, [place[column] for column in self.positives[row] if every or column in place]
            ] = True
            if self.identical[row] in place:
                ignored[number, place[self.identical[row]]] = True
        return RankedDocuments(vectors, positive, ignored if ignored.any() else None)

    def _columns(self, rows: Sequence[int]) -> list[int] | None:
        """Return the documents that count for a batch; ``None`` for all."""
        if self.config.in_batch:
            picks = [self.positives[row][int(torch.randint(len(self.positives[row]), ()))] for row in rows]
            return sorted(set(picks))
        if not self.mined:
            return None
        chosen = set(torch.randint(len(self.documents), (self.config.sampled_negatives,)).tolist())
        for row in rows:
            chosen.update(self.positives[row])
            chosen.update(self.mined[row])
        return sorted(chosen)


def ranking_loss(scores: Tensor, positive: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Return the softmax cross-entropy of every positive against all documents that are not positive.

    Positives of one query do not compete with each other; each weighs the same, and so does each
    query. With one positive this is the usual InfoNCE over the corpus.

    Args:
        scores: similarity over temperature (n, m).
        positive: boolean (n, m), at least one true in every row.
        ignored: boolean (n, m), documents that do not count.
    """
    left_out = positive if ignored is None else positive | ignored
    # Not -inf: a batch may hold nothing but positives, and its gradient has to stay finite.
    others = scores.masked_fill(left_out, torch.finfo(scores.dtype).min).logsumexp(dim=1, keepdim=True)
    losses = torch.logaddexp(scores, others) - scores
    return ((losses * positive).sum(dim=1) / positive.sum(dim=1)).mean()


def _positives(collection: Collection, train: Split, query_id: str, column: Mapping[str, int]) -> list[int]:
    """Return the columns of a query's relevant documents."""
    found = [
        column[document_id]
        for document_id, grade in train.qrels[query_id].items()
        if grade > 0 and not (collection.ignore_identical_ids and document_id == query_id)
    ]
    if not found:
        raise CollectionError(
            f"The query '{query_id}' of '{collection.name}' has no relevant document, so it cannot be "
            "trained on. Leave it out of the train split, or judge a document with a grade above 0."
        )
    return found
