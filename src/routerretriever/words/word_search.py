"""BM25 over the texts of one collection, by the engine that searches the index."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from routerretriever.words.fuse import DEPTH
from routerretriever.words.text_index import SAMPLE, TextSettings, create_text_index, matching

Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows of documents that have a word of the query, best first, and their BM25 scores."""


class WordSearch:
    """Finds documents by their words, as :class:`routerretriever.Index` does; see :func:`word_search`."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def search(self, query: str, depth: int = DEPTH) -> Found:
        """Return the best rows for a query, best first, and their scores; none if no word matches."""
        found = self._dataset.scanner(
            columns=["row", "_score"], full_text_query=matching(query), limit=depth
        ).to_table()
        return found["row"].to_numpy(), found["_score"].to_numpy()

    def search_many(self, queries: Iterable[str], depth: int = DEPTH) -> list[Found]:
        """Return what :meth:`search` does for each query."""
        return [self.search(query, depth) for query in queries]


@contextmanager
def word_search(titles: Sequence[str], texts: Sequence[str]) -> Iterator[WordSearch]:
    """Give a search over documents, whose text index is in a temporary folder meanwhile."""
    rows = pa.table({"row": np.arange(len(texts)), "title": list(titles), "text": list(texts)})
    with tempfile.TemporaryDirectory(prefix="routerretriever-words-") as folder:
        dataset = lance.write_dataset(rows, f"{folder}/documents.lance")
        create_text_index(dataset, TextSettings().chosen_for(texts[:SAMPLE]))
        yield WordSearch(dataset)
