"""Name what is wrong with a configuration in one sentence, as an error of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError, model_validator

from routerretriever.errors import RouterRetrieverError


def named_errors(kind: type[RouterRetrieverError]) -> Any:
    """Return a validator for a pydantic class that raises ``kind`` for wrong values.

    A class attribute ``_named = named_errors(SynthesisError)`` makes every fault a sentence
    with the name of the setting, what it should be, and what it is.
    """

    def validate(cls: type, values: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(values)
        except ValidationError as error:
            faults = [_sentence(dict(fault)) for fault in error.errors()]
            raise kind(f"{cls.__name__}: {'; '.join(faults)}.") from None

    validator: Any = classmethod(validate)
    return model_validator(mode="wrap")(validator)


def _sentence(fault: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "unexpected_keyword_argument":
        return f"there is no setting '{name}'"
    if fault["type"] in ("missing", "missing_argument"):
        return f"'{name}' is required"
    wanted = fault["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"'{name}' {wanted}, and is {fault['input']!r:.60}"
