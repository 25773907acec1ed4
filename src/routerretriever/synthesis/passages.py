"""What queries are made of: the different texts of a collection, of long documents their passages."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from routerretriever.data.beir import corpus_file, generated_from, read_documents
from routerretriever.data.collection import Collection
from routerretriever.data.document import Document
from routerretriever.data.names import JSONL_SUFFIXES, collection_name, data_suffix
from routerretriever.data.text import stable_hash
from routerretriever.errors import SynthesisError
from routerretriever.passages.passage import Passage as CutPassage
from routerretriever.passages.passage import Place
from routerretriever.passages.short_texts import READ_CHARACTERS

LONGEST_DOCUMENT = 200_000
"""Characters of a document that are cut into passages: a hundred pages. Cutting more takes minutes."""

MAX_COPIES = 3
"""A text that occurs more often than this is boilerplate: no query can ask for one of them."""

MIN_PASSAGES = 10
"""Fewer texts cannot be told apart in training, and none could be held out."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One text: a short document's, or a passage of a long one.

    Attributes:
        key: a hash of the content; the same wherever the document is in its collection.
        documents: sorted ids of all documents with this very content.
        title, text: of these, at most ``READ_CHARACTERS`` of each; a passage's headings
            belong to its title.
        places: id of a document that was cut → where in it this is.
    """

    key: str
    documents: tuple[str, ...]
    title: str
    text: str
    places: Mapping[str, Place] = field(default_factory=dict, hash=False)

    @property
    def content(self) -> str:
        """Title and text on one line."""
        return " ".join(f"{self.title} {self.text}".split())

    def random(self, seed: int, purpose: str) -> random.Random:
        """Return a generator that depends on the content, not on the order of documents."""
        return random.Random(f"{seed}:{purpose}:{self.key}")  # noqa: S311 - not for secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class Passages:
    """The different texts of some documents, in the order of their hashes.

    Attributes:
        items: the texts.
        empty: documents and passages without a text.
        copies: those that repeat the text of another.
        boilerplate: those with a text that occurs more than ``MAX_COPIES`` times.
        shortened: documents and passages that are longer than what is read.
        in_passages: documents that were cut into several passages.
    """

    items: tuple[Passage, ...]
    empty: int = 0
    copies: int = 0
    boilerplate: int = 0
    shortened: int = 0
    in_passages: int = 0

    @classmethod
    def of(cls, documents: Iterable[tuple[Document, Sequence[CutPassage]]]) -> Passages:
        """Group the texts of documents by content.

        Args:
            documents: each with its passages: one if it is short.

        Raises:
            SynthesisError: fewer than ``MIN_PASSAGES`` texts are left.
        """
        groups: dict[str, list[_Part]] = {}
        empty, in_passages, long = 0, 0, 0
        for document, parts in documents:
            long += len(parts) > 1 and len(document.text) > LONGEST_DOCUMENT
            in_passages += len(parts) > 1
            for part in parts:
                if any(character.isalnum() for character in part.content):
                    groups.setdefault(stable_hash(part.content), []).append(_Part(document, part))
                else:
                    empty += 1

        kept = {key: group for key, group in groups.items() if len(group) <= MAX_COPIES}
        boilerplate = sum(map(len, groups.values())) - sum(map(len, kept.values()))
        if len(kept) < MIN_PASSAGES:
            raise SynthesisError(
                f"There are {len(kept)} different texts ({empty} empty documents, "
                f"{boilerplate} with a text that occurs more than {MAX_COPIES} times). That "
                f"is too few to train an expert on, which needs at least {MIN_PASSAGES} and "
                "profits from hundreds. Add documents."
            )
        return cls(
            items=tuple(_joined(key, group) for key, group in sorted(kept.items())),
            empty=empty,
            copies=sum(len(group) - 1 for group in kept.values()),
            boilerplate=boilerplate,
            shortened=long + sum(len(group[0].passage.text) > READ_CHARACTERS for group in kept.values()),
            in_passages=in_passages,
        )

    def sample(self, limit: int, seed: int) -> tuple[Passage, ...]:
        """Return at most ``limit`` passages, the same whatever the order of documents."""
        ranked = sorted(self.items, key=lambda passage: stable_hash(f"{seed}:{passage.key}"))
        return tuple(ranked[:limit])

    def set_aside(self) -> dict[str, int]:
        """Return reason → documents that no query is made for."""
        counts = {
            "without a text": self.empty,
            "repeat the text of another": self.copies,
            "boilerplate, the same in many": self.boilerplate,
        }
        return {reason: count for reason, count in counts.items() if count}


def beginning(document: Document) -> Document:
    """Return the part of a document that queries are made from: all but of very long ones."""
    if len(document.text) <= LONGEST_DOCUMENT:
        return document
    sections = tuple(section for section in document.sections if section.start < LONGEST_DOCUMENT)
    return replace(document, text=document.text[:LONGEST_DOCUMENT], sections=sections)


def load_documents(source: str | Path) -> tuple[str, list[Document]]:
    """Return the name of a source and its documents.

    The name is what the documents are known by elsewhere: the whole of a hub name, and
        of a
    folder that was synthesised itself, the name it was made from.

    Args:
        source: a JSONL file, a BEIR folder with or without queries, or any collection.

    Raises:
        CollectionError: the documents cannot be read.
    """
    path = Path(source).expanduser()
    if corpus := corpus_file(path):
        name = generated_from(path) or collection_name(path)
        return name, list(read_documents(corpus))
    if path.is_file() and data_suffix(path.name) in JSONL_SUFFIXES:
        return collection_name(path), list(read_documents(path))

    collection = Collection.load(source, strict=False)
    name = collection.name if path.exists() else str(source)
    return name, list(collection.documents)


def _joined(key: str, group: Sequence[_Part]) -> Passage:
    """Return the passage of all documents that have its content."""
    first = min(group, key=lambda part: part.document.id)
    places: dict[str, Place] = {}
    for part in group:
        if part.passage.place is not None:
            places.setdefault(part.document.id, part.passage.place)
    heading = first.passage.place.heading if first.passage.place is not None else ""
    return Passage(
        key=key,
        documents=tuple(sorted({part.document.id for part in group})),
        title=f"{first.document.title} {heading}".strip()[:READ_CHARACTERS],
        text=first.passage.text[:READ_CHARACTERS],
        places=places,
    )


class _Part(NamedTuple):
    """A passage and its document."""

    document: Document
    passage: CutPassage
