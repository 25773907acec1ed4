"""The text index of an index: building it, keeping it, and saying how words are split."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from routerretriever.index.conflicts import retrying_conflicts
from routerretriever.index.kinds import guarded
from routerretriever.index.table import IndexTable
from routerretriever.words.text_index import (
    SAMPLE,
    TEXT_COLUMNS,
    TextSettings,
    create_text_index,
    drop_text_index,
    has_text_index,
    is_wanted,
    wanted_note,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextIndex:
    """The text index of a table.

    Attributes:
        tokenizer: how texts are split into words.
        language: whose words are stemmed; ``none`` for none.
        seconds: that building took.
    """

    tokenizer: str
    language: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def build_text(table: IndexTable, settings: TextSettings) -> TextIndex:
    """Build the text index of a table again, and keep it from now on.

    Args:
        table: whose documents are searched.
        settings: how texts are split; ``auto`` is chosen by a sample of the documents.

    Raises:
        VectorIndexError: the engine cannot split texts that way.
        StorageError: the disk is full or cannot be written.
    """
    start = time.perf_counter()
    chosen = settings.chosen_for(_sample(table))
    guarded(lambda: create_text_index(table.newest(), chosen), "The text index could not be built")
    if not is_wanted(table.newest().schema):
        _remember(table, wanted=True)
    seconds = round(time.perf_counter() - start, 2)
    return TextIndex(tokenizer=chosen.tokenizer, language=chosen.language, seconds=seconds)


def drop_text(table: IndexTable) -> None:
    """Drop the text index of a table, and keep none from now on."""
    guarded(lambda: drop_text_index(table.newest()), "The text index could not be dropped")
    _remember(table, wanted=False)


def wants_text(dataset: Any) -> bool:
    """Return whether a text index is to be built: it is missing, and nobody dropped it."""
    return not has_text_index(dataset) and is_wanted(dataset.schema) and dataset.count_rows() > 0


def _remember(table: IndexTable, *, wanted: bool) -> None:
    retrying_conflicts(lambda: table.newest().update_field_metadata(wanted_note(wanted)))


def _sample(table: IndexTable) -> list[str]:
    rows = table.newest().to_table(columns=list(TEXT_COLUMNS), limit=SAMPLE).to_pylist()
    return [f"{row['title'] or ''} {row['text']}" for row in rows]
