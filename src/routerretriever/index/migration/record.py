"""What is kept beside an index while it gets another base, so that a killed migration continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from routerretriever.errors import VectorIndexError
from routerretriever.index.build.folder import Folder
from routerretriever.index.migration.bridge import Bridge, matrix_bytes, matrix_of
from routerretriever.index.reports import BridgeFigures

FOLDER = "_migration"
"""Folder in that of the index."""

_RECORD, _BRIDGE = "migration.json", "bridge.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """The base that an index is to get, and how it was searched.

    Attributes:
        fingerprint: of the new base.
        model: place of the model with it.
        kind: of vector index that was asked for; ``auto`` if none was.
        text: settings of the text index; ``None`` if there is none.
        keeps_words: whether a text index is kept.
        method: of the bridge; empty until there is one.
        figures: of the bridge.
    """

    fingerprint: str
    model: str
    kind: str
    text: Mapping[str, str] | None
    keeps_words: bool
    method: str = ""
    figures: Mapping[str, BridgeFigures]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Migration:
        """Return what :func:`dataclasses.asdict` made."""
        figures = {name: BridgeFigures(**values) for name, values in content["figures"].items()}
        return cls(**{**content, "figures": figures})


class MigrationFolder:
    """The folder of a migration.

    Attributes:
        next: URI of the index that is filled for the new base.
    """

    def __init__(self, uri: str) -> None:
        self._folder = Folder(f"{uri.rstrip('/')}/{FOLDER}")
        self.next = f"{self._folder.uri}/next"

    @property
    def uri(self) -> str:
        """Where it is."""
        return self._folder.uri

    def read(self) -> Migration | None:
        """Return the migration that has begun; ``None`` if none has.

        Raises:
            VectorIndexError: the record cannot be read.
        """
        content = self._folder.read(_RECORD)
        if content is None:
            return None
        try:
            return Migration.from_dict(json.loads(content))
        except (KeyError, TypeError, ValueError) as error:
            raise VectorIndexError(
                f"{self.uri}/{_RECORD} is damaged ({error}). Remove {self.uri} to begin the migration again."
            ) from error

    def write(self, migration: Migration) -> None:
        """Keep what is known of a migration."""
        self._folder.write(_RECORD, json.dumps(asdict(migration), ensure_ascii=False).encode())

    def bridge(self) -> Bridge | None:
        """Return the bridge to the new base, once there is one."""
        migration = self.read()
        content = self._folder.read(_BRIDGE)
        if migration is None or not migration.method or content is None:
            return None
        return Bridge(matrix=matrix_of(content), method=migration.method, figures=migration.figures)

    def keep_bridge(self, migration: Migration, bridge: Bridge) -> None:
        """Keep the bridge of a migration."""
        self._folder.write(_BRIDGE, matrix_bytes(bridge.matrix))
        # After the matrix, which it says is there.
        self.write(replace(migration, method=bridge.method, figures=bridge.figures))

    def remove(self) -> None:
        """Remove everything: the migration is done."""
        self._folder.remove(_RECORD)  # first, so that no kill leaves a record without its documents
        self._folder.remove()

    def remove_unfinished_next(self) -> None:
        """Remove an index that a kill left before it was whole."""
        Folder(self.next).remove()
