"""The documents that training queries are ranked against, and the loss of their ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.errors import CollectionError
from routerretriever.evaluation.runs import own_documents
from routerretriever.experts.frozen_choice import FrozenChoice
from routerretriever.experts.training_config import TrainingConfig
from routerretriever.kernels.exact_search import as_similarity, top_k


class RankedDocuments(NamedTuple):
    """What a batch of n queries is ranked against.

    Attributes:
        vectors: of documents, of long ones those of passages (c, d), ready for a dot
            product.
        positive: whether a document is relevant to a query (n, c).
        ignored: whether it is neither positive nor negative (n, c); ``None`` if there
            is no such.
    """

    vectors: Tensor
    positive: Tensor
    ignored: Tensor | None


class Negatives:
    """The documents a batch is ranked against, and which of them are relevant.

    A document of several passages counts by one of them, relevant or not: the one that
        the frozen base
    finds most similar to the query; see :class:`FrozenChoice`.

    Raises:
        CollectionError: a query has no relevant document.
    """

    def __init__(
        self,
        model: RoutedModel,
        collection: Collection,
        train: Split,
        documents: DocumentVectors,
        config: TrainingConfig,
    ) -> None:
        self.config = config
        prepared = as_similarity(torch.from_numpy(documents.vectors), model.similarity_fn_name)
        self.vectors = prepared.to(model.device)
        self.choice: FrozenChoice | None = None
        self.mined: list[list[int]] = []

        mines = not config.in_batch and len(documents.vectors) > config.corpus_limit
        near: list[list[int]] = []
        if mines or documents.in_passages:
            queries = model.encode_query(list(train.queries.values()), expert="base")
            if documents.in_passages:
                by_base = as_similarity(torch.from_numpy(queries), model.similarity_fn_name)
                self.choice = FrozenChoice(by_base.to(model.device), documents, self.vectors)
            if mines:
                found = top_k(
                    queries,
                    documents.vectors,
                    config.hard_negatives + 1,
                    model.similarity_fn_name,
                    documents.groups,
                )
                near = found.columns.tolist()
        self.mined = [self._passages(row, columns) for row, columns in enumerate(near)]

        column = {document_id: place for place, document_id in enumerate(collection.document_ids)}
        self.positives: list[list[int]] = []
        self.left_out: list[list[int]] = []  # passages that are neither relevant nor negatives
        own = own_documents(train, collection).tolist()
        for row, query_id in enumerate(train.queries):
            relevant = _relevant(collection, train, query_id, column)
            positives = self._passages(row, relevant)
            apart = relevant if own[row] < 0 else [own[row], *relevant]
            passages = {passage for document in apart for passage in documents.passages_of(document)}
            self.positives.append(positives)
            self.left_out.append(sorted(passages.difference(positives)))

    def candidates(self, rows: Sequence[int]) -> RankedDocuments:
        """Return the documents that some queries are ranked against."""
        columns = self._columns(rows)
        every = columns is None
        place = range(len(self.vectors)) if columns is None else {c: at for at, c in enumerate(columns)}
        vectors = self.vectors if columns is None else self.vectors[columns]

        positive = torch.zeros(len(rows), len(vectors), dtype=torch.bool)
        ignored = torch.zeros_like(positive)
        for number, row in enumerate(rows):
            positive[
                number, [place[column] for column in self.positives[row] if every or column in place]
            ] = True
            ignored[number, [place[column] for column in self.left_out[row] if every or column in place]] = (
                True
            )
        if self.choice is not None:
            ignored |= ~self.choice.are_best(rows, columns).cpu() & ~positive
        return RankedDocuments(vectors, positive, ignored if ignored.any() else None)

    def _passages(self, query: int, documents: Sequence[int]) -> list[int]:
        """Return the passage of each document that counts for a query."""
        if self.choice is None:
            return list(documents)
        return [self.choice.best(query, document) for document in documents]

    def _columns(self, rows: Sequence[int]) -> list[int] | None:
        """Return the passages that count for a batch; ``None`` for all."""
        if self.config.in_batch:
            picks = [self.positives[row][int(torch.randint(len(self.positives[row]), ()))] for row in rows]
            return sorted(set(picks))
        if not self.mined:
            return None
        chosen = set(torch.randint(len(self.vectors), (self.config.sampled_negatives,)).tolist())
        for row in rows:
            chosen.update(self.positives[row])
            chosen.update(self.mined[row])
        return sorted(chosen)


def ranking_loss(scores: Tensor, positive: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Return the softmax cross-entropy of every positive against all documents that are not positive.

    Positives of one query do not compete with each other; each weighs the same, and so
    does each query. With one positive this is the usual InfoNCE over the corpus.

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


def _relevant(collection: Collection, train: Split, query_id: str, column: Mapping[str, int]) -> list[int]:
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
