"""Full-text indexes of titles and texts: how words are split, and BM25 over them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from lance.query import FullTextOperator, MultiMatchQuery

from routerretriever.errors import VectorIndexError
from routerretriever.words.languages import LANGUAGES, NONE, lacks_spaces, likely_language

TEXT_COLUMNS = ("title", "text")

AUTO = "auto"

SAMPLE = 500
"""Documents that ``auto`` looks at."""

_INDEX_TYPE = "InvertedIndexDetails"  # how Lance names that of a text index
_NOTE = b"routerretriever.keeps_words"  # metadata of the text column, where the choice is remembered


class Tokenizer(StrEnum):
    """How texts are split into words."""

    AUTO = AUTO
    SIMPLE = "simple"
    ICU = "icu"
    NGRAM = "ngram"
    WHITESPACE = "whitespace"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSettings:
    """How the texts of an index are split into words.

    Attributes:
        tokenizer: ``simple`` splits at white space and punctuation, ``icu`` also finds words in
            scripts without spaces, ``ngram`` takes all sequences of three characters,
            ``whitespace`` splits at white space alone; ``auto`` chooses by the documents.
        language: whose words are stemmed and whose stop words are left out; one of
            :data:`LANGUAGES`, ``none`` for neither, or ``auto``, which guesses.

    Raises:
        VectorIndexError: there is no such tokenizer or language.
    """

    tokenizer: str = AUTO
    language: str = AUTO

    def __post_init__(self) -> None:
        tokenizers = tuple(Tokenizer)
        if self.tokenizer not in tokenizers:
            raise VectorIndexError(
                f"There is no tokenizer '{self.tokenizer}'. Choose one of: {', '.join(tokenizers)}."
            )
        known = {name.lower(): name for name in (AUTO, NONE, *LANGUAGES)}
        language = known.get(self.language.lower())
        if language is None:
            raise VectorIndexError(
                f"The text index does not know the language '{self.language}'. "
                f"Choose auto, none, or one of: {', '.join(LANGUAGES)}."
            )
        object.__setattr__(self, "language", language)

    def chosen_for(self, texts: Iterable[str]) -> TextSettings:
        """Return the settings in which ``auto`` is replaced by what fits these texts."""
        tokenizer, language = self.tokenizer, self.language
        if AUTO not in (tokenizer, language):
            return self
        sample = list(texts)
        if tokenizer == Tokenizer.AUTO:
            tokenizer = Tokenizer.ICU if lacks_spaces(sample) else Tokenizer.SIMPLE
        if language == AUTO:
            language = likely_language(sample)
        return TextSettings(tokenizer=str(tokenizer), language=language)

    def to_dict(self) -> dict[str, str]:
        """Return plain data for JSON."""
        return asdict(self)

    def config(self) -> dict[str, Any]:
        """Return what Lance is told of how texts are split."""
        if self.language == NONE:
            return {"base_tokenizer": self.tokenizer, "stem": False, "remove_stop_words": False}
        # Parts of words have no stem, and no part is a stop word.
        whole_words = self.tokenizer != Tokenizer.NGRAM
        return {
            "base_tokenizer": self.tokenizer,
            "language": self.language,
            "stem": whole_words,
            "remove_stop_words": whole_words,
        }


def matching(query: str) -> MultiMatchQuery:
    """Return the request for documents that have a word of the query in title or text.

    A match query is not parsed, so that no sign in it is an operator.
    """
    return MultiMatchQuery(query, list(TEXT_COLUMNS), operator=FullTextOperator.OR)


def has_text_index(dataset: Any) -> bool:
    """Return whether a data set of Lance has a full-text index of title and text."""
    indexed = {name for index in _text_indices(dataset) for name in index.field_names}
    return indexed.issuperset(TEXT_COLUMNS)


def present_settings(dataset: Any) -> TextSettings | None:
    """Return how the texts of a data set are split now; ``None`` without a text index."""
    if not has_text_index(dataset):
        return None
    details: Mapping[str, Any] = _text_indices(dataset)[0].details
    stems = details["stem"] or details["remove_stop_words"]
    return TextSettings(
        tokenizer=details["base_tokenizer"],
        language=details["language"] if stems else NONE,
    )


def create_text_index(dataset: Any, settings: TextSettings) -> None:
    """Build the full-text index of title and text; ``settings`` name no ``auto``."""
    for column in TEXT_COLUMNS:
        dataset.create_scalar_index(column, "INVERTED", **settings.config())


def drop_text_index(dataset: Any) -> None:
    """Drop the full-text index, if there is one."""
    for index in _text_indices(dataset):
        dataset.drop_index(index.name)


def is_wanted(schema: Any) -> bool:
    """Return whether a text index is kept: unless somebody dropped it."""
    metadata = schema.field("text").metadata or {}
    return bool(json.loads(metadata.get(_NOTE, b"true")))


def wanted_note(wanted: bool) -> dict[str, Any]:
    """Return the change of the columns' metadata that remembers whether a text index is kept."""
    return {"text": {_NOTE.decode(): json.dumps(wanted)}}


def _text_indices(dataset: Any) -> list[Any]:
    return [index for index in dataset.describe_indices() if index.type_url.endswith(_INDEX_TYPE)]
