"""What an index holds: how many documents, which fields they have, and which were written last."""

from __future__ import annotations

import pyarrow as pa

from routerretriever.index.filters import Condition
from routerretriever.index.store import Store
from routerretriever.index.view import Record


class ListedIndex:
    """The part of :class:`routerretriever.Index` that says what it holds."""

    _store: Store

    def __len__(self) -> int:
        return len(self._store)

    def count(self, where: str | Condition | None = None) -> int:
        """Return the number of documents that satisfy a condition.

        Raises:
            FilterError: the condition cannot be understood.
        """
        with self._store.view(where) as view:
            return view.count_documents()

    def newest(
        self, limit: int, *, offset: int = 0, where: str | Condition | None = None
    ) -> tuple[list[Record], int]:
        """Return documents that satisfy a condition, those written last first, and how many there are.

        Each is shown by its first passage.

        Args:
            limit: documents, at most.
            offset: how many to leave out.
            where: as for :meth:`search`.

        Raises:
            FilterError: the condition cannot be understood.
        """
        with self._store.view(where) as view:
            total = view.count_documents()
            end = max(0, total - offset)
            start = max(0, end - limit)
            rows = view.first_rows(start, end - start)
            return list(reversed(view.records(rows))), total

    def fields(self) -> dict[str, pa.DataType]:
        """Return the names and types of the fields that documents can be filtered by."""
        with self._store.view(None) as view:
            return dict(view.fields)
