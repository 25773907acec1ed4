"""Mean nDCG@10 of queries of one kind: by their length, or by a field of the documents that answer them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from routerretriever.data.collection import Collection
from routerretriever.errors import CollectionError
from routerretriever.evaluation.evaluate import CollectionResult, Evaluation
from routerretriever.evaluation.runs import GAIN_MEASURE

SYSTEMS = ("base", "hybrid", "routed-hybrid")
LENGTHS = ((1, 3), (4, 7), (8, 15), (16, None))
"""Words of a query, from and to."""

NO_VALUE = "none"

Label = Callable[[CollectionResult, str], str]
"""Result of a collection and id of a query → the group that the query belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryGroups:
    """Queries in groups.

    Attributes:
        by: what they are grouped by.
        rows: one for each group: ``group``, ``queries``, and the mean nDCG@10 of :data:`SYSTEMS`.
    """

    by: str
    rows: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"by": self.by, "rows": [dict(row) for row in self.rows]}


def by_length(evaluation: Evaluation) -> QueryGroups:
    """Group the queries of all collections by their number of words."""

    def label(result: CollectionResult, query_id: str) -> str:
        words = len(result.split.queries[query_id].split())
        for least, most in LENGTHS:
            if most is None or words <= most:
                return f"{least} words and more" if most is None else f"{least} to {most} words"
        raise AssertionError("the last length has no end")

    return QueryGroups(by="length", rows=_rows(evaluation, label))


def by_field(evaluation: Evaluation, collections: Sequence[Collection], field: str) -> QueryGroups:
    """Group the queries by a metadata field of their first relevant document.

    Args:
        evaluation: of these collections.
        collections: that were evaluated.
        field: of the documents; queries whose document lacks it are in the group "none".

    Raises:
        CollectionError: no document has such a field.
    """
    values: dict[str, dict[str, Any]] = {}
    known: set[str] = set()
    for collection in collections:
        own = values[collection.name] = {}
        for document in collection.documents:
            known.update(document.metadata)
            own[document.id] = document.metadata.get(field)
    if field not in known:
        found = ", ".join(sorted(known)) or "none"
        raise CollectionError(f"No document has a field '{field}'. Group by length, or by one of: {found}.")

    def label(result: CollectionResult, query_id: str) -> str:
        for document_id, grade in result.split.qrels.get(query_id, {}).items():
            if grade > 0:
                value = values[result.name].get(document_id)
                return NO_VALUE if value is None else str(value)
        return NO_VALUE

    return QueryGroups(by=field, rows=_rows(evaluation, label))


def _rows(evaluation: Evaluation, label: Label) -> tuple[Mapping[str, Any], ...]:
    labels: list[str] = []
    values: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for result in evaluation.collections:
        labels += [label(result, query_id) for query_id in result.split.queries]
        for name, own in values.items():
            own += result.systems[name].values[GAIN_MEASURE].tolist()

    rows = []
    each = np.array(labels)
    for group in sorted(set(labels), key=_in_order):
        inside = each == group
        means = {name: float(np.array(own)[inside].mean()) for name, own in values.items()}
        rows.append({"group": group, "queries": int(inside.sum()), **means})
    return tuple(rows)


def _in_order(group: str) -> tuple[float, str]:
    """Sort numbers by their size, and words after them."""
    first = group.split()[0] if group.split() else ""
    try:
        return float(first), group
    except ValueError:
        return float("inf"), group
