"""Haystack's filters as conditions of our index.

Haystack compares a field that a document does not have as ``None``: it differs from every
value, is in no list, and is neither greater nor less than anything. In SQL such a comparison
is neither true nor false, so the conditions made here ask for the field itself where that
matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from routerretriever.errors import FilterError
from routerretriever.index.filters import Condition

_LOGICAL = ("AND", "OR", "NOT")
_COMPARISONS = {"==": "eq", "!=": "ne", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_LISTS = ("in", "not in")
_OWN_NAMES = {"content": "text"}


def to_condition(filters: Mapping[str, Any]) -> Condition:
    """Return Haystack's filters as :mod:`routerretriever.index.filters` takes them.

    Raises:
        FilterError: they do not have the form of Haystack's.
    """
    return _condition(filters, negated=False)


def _condition(filters: Any, *, negated: bool) -> Condition:
    """Translate one filter; below NOT, every comparison must be true or false for every document."""
    if not isinstance(filters, Mapping):
        raise FilterError(f"A filter is a mapping with an operator, not {filters!r:.60}.")
    operator = filters.get("operator")
    if operator in _LOGICAL:
        negated = negated or operator == "NOT"
        conditions = filters.get("conditions")
        if not isinstance(conditions, list | tuple):
            raise FilterError(f"'{operator}' needs a list of conditions, not {conditions!r:.60}.")
        parts = [_condition(part, negated=negated) for part in conditions]
        # Haystack's NOT means that not all of them hold.
        if operator == "NOT":
            return {"not": {"and": parts}}
        return {str(operator).lower(): parts}

    if "field" not in filters or "value" not in filters or operator not in (*_COMPARISONS, *_LISTS):
        raise FilterError(
            "A filter has a field, an operator and a value, or conditions below AND, OR or NOT. This one does not: "
            f"{filters!r:.80}. Operators: {', '.join((*_COMPARISONS, *_LISTS))}."
        )
    given = str(filters["field"])
    name = given.removeprefix("meta.")
    field = _Field(_OWN_NAMES.get(given, name))
    value = filters["value"]
    if operator in _LISTS:
        return field.in_list(_checked_list(name, value), negated=operator == "not in")
    return field.compared(str(operator), value, two_valued=negated)


def _checked_list(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple | set):
        raise FilterError(f"'in' and 'not in' need a list of values for '{name}', not {value!r:.60}.")
    return list(value)


class _Field:
    """Conditions on one field."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.present: Condition = self._test("exists", True)
        self.absent: Condition = self._test("exists", False)
        self.nothing: Condition = {"and": [self.present, self.absent]}
        self.anything: Condition = {"or": [self.present, self.absent]}

    def _test(self, operator: str, value: Any) -> Condition:
        return {self._name: {operator: value}}

    def compared(self, operator: str, value: Any, *, two_valued: bool) -> Condition:
        if value is None:
            return {"==": self.absent, "!=": self.present}.get(operator, self.nothing)
        test = self._test(_COMPARISONS[operator], value)
        if operator == "!=":
            return {"or": [self.absent, test]}
        if two_valued:
            return {"and": [self.present, test]}
        return test

    def in_list(self, values: Sequence[Any], *, negated: bool) -> Condition:
        given = [value for value in values if value is not None]
        listed = self.nothing
        if given:
            listed = {"and": [self.present, self._test("in", given)]}
        if len(given) < len(values):
            listed = {"or": [self.absent, listed]}
        if negated:
            return {"not": listed}
        return listed
