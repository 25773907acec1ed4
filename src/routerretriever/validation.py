"""Name what is wrong with a configuration in one sentence, as an error of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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


class Fault(NamedTuple):
    """What is wrong with one value: its name, the value as it is shown, and pydantic's words."""

    name: str
    given: str
    message: str


def first_fault(error: ValidationError) -> Fault:
    """Return the first of the faults that pydantic found."""
    return _fault(dict(error.errors(include_url=False)[0]))


def _fault(fault: dict[str, Any]) -> Fault:
    name = ".".join(map(str, fault["loc"]))
    return Fault(name=name, given=f"{fault['input']!r:.60}", message=fault["msg"])


def _sentence(fault: dict[str, Any]) -> str:
    name, given, message = _fault(fault)
    if fault["type"] == "unexpected_keyword_argument":
        return f"there is no setting '{name}'"
    if fault["type"] in ("missing", "missing_argument"):
        return f"'{name}' is required"
    wanted = message.removeprefix("Input ").removeprefix("Value error, ")
    return f"'{name}' {wanted}, and is {given}"
