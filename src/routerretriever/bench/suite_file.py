"""A suite's YAML file, which knows the line of each mistake in it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from routerretriever.errors import SuiteError

Place = tuple[str | int, ...]
"""Keys and positions that lead to a value."""

T = TypeVar("T")
_KINDS = {
    "array": "a list",
    "object": "a mapping of keys to values",
    "integer": "a whole number",
    "string": "text",
    "boolean": "true or false",
}
"""What pydantic calls a type → what the message says."""


@dataclass(frozen=True, slots=True)
class SuiteFile:
    """The content of a YAML file.

    Attributes:
        path: of the file.
        content: its keys and values.
        lines: place → number of its line.
    """

    path: Path
    content: dict[str, Any]
    lines: Mapping[Place, int]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            SuiteError: it cannot be read, or is no mapping in YAML.
        """
        try:
            text = path.read_text(encoding="utf-8")
            content = yaml.safe_load(text)
            lines = _lines(yaml.compose(text, yaml.SafeLoader))
        except (OSError, UnicodeDecodeError) as error:
            raise SuiteError(f"The suite {path} cannot be read: {error}.") from error
        except yaml.YAMLError as error:
            raise SuiteError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(content, dict):
            raise SuiteError(f"{path}, line 1: a suite is a mapping of keys to values.")
        return cls(path, content, lines)

    def error(self, message: str, place: Place) -> SuiteError:
        """Return an error that names the line of a place, or of what it would be in."""
        while place and place not in self.lines:
            place = place[:-1]
        return SuiteError(f"{self.path}, line {self.lines.get(place, 1)}: {message}.")

    def check_choice(self, value: str, choices: Collection[str], kind: str, place: Place) -> None:
        """Refuse a name that is not among the choices.

        Raises:
            SuiteError: it is not.
        """
        if value not in choices:
            names = ", ".join(sorted(choices))
            raise self.error(f"unknown {kind} '{value}'; choose among: {names}", place)

    def checked(self, kind: type[T], content: Any, place: Place = ()) -> T:
        """Return content as a model whose types are checked strictly.

        Raises:
            SuiteError: a value is missing, unknown, or of the wrong type or size.
        """
        # In JSON a list may become a tuple, while a text never becomes a number.
        document = json.dumps(content, default=str)
        try:
            return TypeAdapter(kind).validate_json(document, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            inner = (*place, *first["loc"])
            raise self.error(_explained(first, inner), inner) from error


def _explained(error: Mapping[str, Any], place: Place) -> str:
    key = ".".join(str(part) for part in place)
    if error["type"] == "missing":
        return f"the key '{key}' is missing"
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'"
    expected = str(error["msg"]).removeprefix("Value error, ").replace("Input should", "must")
    for name, words in _KINDS.items():
        expected = expected.replace(f"a valid {name}", words).replace(f"an {name}", words)
    given = json.dumps(error["input"], ensure_ascii=False, default=str)
    return f"'{key}' {expected}, but is {given}"


def _lines(node: yaml.Node | None, place: Place = ()) -> dict[Place, int]:
    if node is None:
        return {}
    lines = {place: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, key.value)
            lines |= _lines(value, inner) | {inner: key.start_mark.line + 1}
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines |= _lines(value, (*place, index))
    return lines
