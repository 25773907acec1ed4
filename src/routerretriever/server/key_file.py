"""The file of keys that may do and see a part: TOML or JSON."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from routerretriever.errors import ServerError
from routerretriever.routing.scope import RoutingScope
from routerretriever.server.access import Access, Right

_LEAST = 16
Names = list[Annotated[str, Field(max_length=200)]]
_MOST_COLLECTIONS = 1000  # of a condition "in"


class KeyEntry(BaseModel):
    """One key of the file; what is not listed is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(min_length=1, max_length=100)
    secret: SecretStr | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None
    collections: Literal["*"] | Names
    experts: Literal["*"] | Names
    new_collections: Names = []
    new_experts: Names = []
    write: list[Literal["documents", "experts", "feedback"]] = []
    filter: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.secret is None) == (self.sha256 is None):
            raise ValueError("give either 'secret' or 'sha256', the SHA-256 digest of it")
        if self.secret is not None and not is_key(self.secret.get_secret_value()):
            raise ValueError(f"'secret' needs {_LEAST} or more ASCII characters without spaces")
        for which in ("collections", "experts"):
            if getattr(self, which) == "*" and getattr(self, f"new_{which}"):
                raise ValueError(f"'{which}' is \"*\", so 'new_{which}' adds nothing: leave it out")
        if len(self.collections) + len(self.new_collections) > _MOST_COLLECTIONS:
            raise ValueError(f"it has more than {_MOST_COLLECTIONS} collections")
        if self.filter is not None and "documents" in self.write:
            raise ValueError(
                "a key with a 'filter' cannot write documents, since it would replace some that it does not see: "
                "give it collections of its own"
            )
        return self

    @property
    def digest(self) -> bytes:
        """SHA-256 of the key."""
        if self.sha256 is not None:
            return bytes.fromhex(self.sha256)
        assert self.secret is not None
        return digest_of(self.secret.get_secret_value())


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    key: list[KeyEntry] = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key with a scope.

    Attributes:
        digest: SHA-256 of the key.
        access: what it may do.
        experts, collections: names that must exist when the server starts.
        source: the file, for messages.
    """

    digest: bytes
    access: Access
    experts: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()
    source: str = ""


def digest_of(key: str) -> bytes:
    """Return the SHA-256 digest of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def is_key(text: str) -> bool:
    """Return whether a text can be a key."""
    return len(text) >= _LEAST and text.isascii() and " " not in text


def read_key_file(path: Path | None) -> tuple[Key, ...]:
    """Return the keys of a file, TOML or, if its name ends in ``.json``, JSON.

    Raises:
        ServerError: it cannot be read, or an entry is wrong; names file, line (in TOML) and field.
    """
    if path is None:
        return ()
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f"The key file {path} cannot be read ({type(error).__name__}).") from error
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ServerError(f"{path} is not valid {kind}: {error}.") from error
    try:
        entries = _KeyFile.model_validate(content).key
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]  # an input may be a secret
        raise ServerError(f"{_place(path, text, fault['loc'])}: {_message(dict(fault))}.") from error
    _check_unique(path, text, entries)
    return tuple(_key(entry, path) for entry in entries)


def _key(entry: KeyEntry, path: Path) -> Key:
    experts = () if entry.experts == "*" else tuple(entry.experts)
    collections = () if entry.collections == "*" else tuple(entry.collections)
    scope = RoutingScope(
        experts=None if entry.experts == "*" else frozenset((*experts, *entry.new_experts)),
        collections=None if entry.collections == "*" else frozenset((*collections, *entry.new_collections)),
    )
    access = Access(
        name=entry.name,
        rights=frozenset({Right.READ, *map(Right, entry.write)}),
        scope=None if scope == RoutingScope() else scope,
        filter=entry.filter,
    )
    return Key(
        digest=entry.digest,
        access=access,
        experts=experts,
        collections=collections,
        source=str(path),
    )


def _check_unique(path: Path, text: str, entries: Sequence[KeyEntry]) -> None:
    names: set[str] = set()
    digests: set[bytes] = set()
    for number, entry in enumerate(entries):
        if entry.name in names or entry.digest in digests:
            what = "name" if entry.name in names else "secret"
            raise ServerError(f"{_place(path, text, ('key', number))}: its {what} is that of another key.")
        names.add(entry.name)
        digests.add(entry.digest)


def _message(fault: dict[str, Any]) -> str:
    fields = [str(part) for part in fault["loc"][2:] if part != "literal['*']"]
    name = ".".join(part for part in fields if not part.startswith(("list[", "constrained-str")))
    if fault["type"] == "extra_forbidden":
        return f"there is no setting '{name or fault['loc'][-1]}'"
    if fault["type"] == "missing":
        return f"'{name or fault['loc'][-1]}' is missing"
    if "literal['*']" in fault["loc"]:
        return f"'{name}' must be a list of names, or \"*\" for all"
    if fault["type"] == "string_pattern_mismatch":
        return f"'{name}' must be 64 hexadecimal digits"
    told = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f"'{name}' {told}" if name else told


def _place(path: Path, text: str, place: Sequence[str | int]) -> str:
    """Return file, line and number of the key that a place is in; lines are known in TOML."""
    if len(place) < 2 or not isinstance(place[1], int):
        return f"{path}"
    where = f"{path}, key {place[1] + 1}"
    if path.suffix == ".json":
        return where
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if re.match(r"\s*\[\[\s*key\s*\]\]", line)]
    if place[1] >= len(starts):
        return where
    start, following = starts[place[1]], (*starts, len(lines))[place[1] + 1]
    field = re.escape(str(place[2])) if len(place) > 2 else None
    for number in range(start, following):
        if field is not None and re.match(rf"\s*(\[?key\.)?[\"']?{field}[\"']?\s*[=.\]]", lines[number]):
            return f"{where}, line {number + 1}"
    return f"{where}, line {start + 1}"
