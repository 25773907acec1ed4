"""The fields that documents have, as far as a key may know of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

from routerretriever.index.filters import Condition, checked
from routerretriever.index.index import Index
from routerretriever.index.schema import OWN_COLUMNS
from routerretriever.server.access import Access


class SeenFields:
    """Checks conditions of keys that do not see all documents.

    A field that only documents of others have is answered as one that no document has.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def check(self, condition: Condition, index: Index, access: Access) -> None:
        """Refuse a condition on a field that does not exist for whoever asks; reads the index.

        Raises:
            FilterError: as of :func:`routerretriever.index.filters.checked`.
        """
        if not access.sees_all_documents:
            checked(condition, _Fields(index, access, self._seen))


class _Fields(Mapping[str, pa.DataType]):
    """Fields with a value in some document that a key sees; each is looked for when it is asked about."""

    def __init__(self, index: Index, access: Access, seen: set[tuple[str, str]]) -> None:
        self._index = index
        self._access = access
        self._seen = seen
        self._types = index.fields()

    def __getitem__(self, name: str) -> pa.DataType:
        if name not in self:
            raise KeyError(name)
        return self._types[name]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or name not in self._types:
            return False
        if name in OWN_COLUMNS or (self._access.name, name) in self._seen:
            return True
        found = self._index.count(self._access.where({name: {"exists": True}})) > 0
        if found:  # a field that was seen may stay known; one that was not may come any time
            self._seen.add((self._access.name, name))
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._types if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
