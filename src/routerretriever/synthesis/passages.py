"""What queries are made of: the distinct texts of a collection, and the random numbers that belong to each."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from routerretriever.data.beir import corpus_file, generated_from, read_documents
from routerretriever.data.collection import Collection
from routerretriever.data.document import Document
from routerretriever.data.names import JSONL_SUFFIXES, collection_name, data_suffix
from routerretriever.data.text import stable_hash
from routerretriever.errors import SynthesisError

READ_CHARACTERS = 4000
"""How much of a document queries are made of: more than most encoders read of it (512 tokens)."""

MAX_COPIES = 3
"""A text that stands in more documents than this is boilerplate: no query can ask for one of them."""

MIN_PASSAGES = 10
"""Fewer distinct texts cannot be told apart in training, and none could be held out."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One distinct text.

    Attributes:
        key: a hash of the content; the same wherever the document stands in its collection.
        documents: ids of all documents with this very content, sorted.
        title, text: of these documents; the text no longer than ``READ_CHARACTERS``.
    """

    key: str
    documents: tuple[str, ...]
    title: str
    text: str

    @property
    def content(self) -> str:
        """Title and text on one line, as far as they are read."""
        return " ".join(f"{self.title} {self.text}".split())

    def random(self, seed: int, purpose: str) -> random.Random:
        """A generator that depends on seed and content alone, not on the order of documents."""
        return random.Random(f"{seed}:{purpose}:{self.key}")  # noqa: S311 - not for secrets


@dataclass(frozen=True, slots=True)
class Passages:
    """The distinct texts of some documents, in the order of their hashes, and what was set aside.

    Attributes:
        items: distinct texts.
        empty, copies, boilerplate, shortened: documents without a text; beyond the first of the same text; with a
            text that stands more than ``MAX_COPIES`` times; longer than what is read.
    """

    items: tuple[Passage, ...]
    empty: int = 0
    copies: int = 0
    boilerplate: int = 0
    shortened: int = 0

    @classmethod
    def of(cls, documents: Iterable[Document]) -> Passages:
        """Group documents by content.

        Raises:
            SynthesisError: fewer than ``MIN_PASSAGES`` distinct texts are left.
        """
        groups: dict[str, list[Document]] = {}
        empty = 0
        for document in documents:
            if any(character.isalnum() for character in document.content):
                groups.setdefault(_key(document), []).append(document)
            else:
                empty += 1
        kept = {key: group for key, group in groups.items() if len(group) <= MAX_COPIES}
        items = tuple(_passage(key, group) for key, group in sorted(kept.items()))
        boilerplate = sum(len(group) for key, group in groups.items() if key not in kept)
        if len(items) < MIN_PASSAGES:
            raise SynthesisError(
                f"There are {len(items)} distinct texts ({empty} empty documents, {boilerplate} with a text that "
                f"stands more than {MAX_COPIES} times): too few to train an expert on, which needs at least "
                f"{MIN_PASSAGES} and profits from hundreds. Add documents, or split long ones into passages."
            )
        copies = sum(len(group) - 1 for group in kept.values())
        shortened = sum(len(group[0].text) > READ_CHARACTERS for group in kept.values())
        return cls(items, empty, copies, boilerplate, shortened)

    def sample(self, limit: int, seed: int) -> tuple[Passage, ...]:
        """At most so many passages, the same for the same seed whatever the order of documents."""
        ranked = sorted(self.items, key=lambda passage: stable_hash(f"{seed}:{passage.key}"))
        return tuple(ranked[:limit])


def load_documents(source: str | Path) -> tuple[str, list[Document]]:
    """A name and the documents of a JSONL file, of a BEIR folder with or without queries, or of any collection.

    The name is what the documents are known by elsewhere: the whole of a hub name, and of a folder that was synthesised
    itself the name it was made from.

    Raises:
        CollectionError: they cannot be read.
    """
    path = Path(source).expanduser()
    if corpus := corpus_file(path):
        return generated_from(path) or collection_name(path), list(read_documents(corpus))
    if path.is_file() and data_suffix(path.name) in JSONL_SUFFIXES:
        return collection_name(path), list(read_documents(path))
    collection = Collection.load(source, strict=False)
    return collection.name if path.exists() else str(source), list(collection.documents)


def _key(document: Document) -> str:
    return stable_hash(document.content)


def _passage(key: str, group: Sequence[Document]) -> Passage:
    first = min(group, key=lambda document: document.id)
    ids = tuple(sorted(document.id for document in group))
    return Passage(key, ids, first.title[:READ_CHARACTERS], first.text[:READ_CHARACTERS])
