"""What queries are made of: the different texts of a collection."""

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
"""How much of a document is read: more than most encoders read of it (512 tokens)."""

MAX_COPIES = 3
"""A text of more documents than this is boilerplate: no query can ask for one of them."""

MIN_PASSAGES = 10
"""Fewer texts cannot be told apart in training, and none could be held out."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One text.

    Attributes:
        key: a hash of the content; the same wherever the document is in its collection.
        documents: sorted ids of all documents with this very content.
        title, text: of these documents, at most ``READ_CHARACTERS`` of each.
    """

    key: str
    documents: tuple[str, ...]
    title: str
    text: str

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
        empty: documents without a text.
        copies: documents that repeat the text of another.
        boilerplate: documents with a text that occurs more than ``MAX_COPIES`` times.
        shortened: texts that are longer than what is read.
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
            SynthesisError: fewer than ``MIN_PASSAGES`` texts are left.
        """
        groups: dict[str, list[Document]] = {}
        empty = 0
        for document in documents:
            content = document.content
            if any(character.isalnum() for character in content):
                groups.setdefault(stable_hash(content), []).append(document)
            else:
                empty += 1

        kept = {key: group for key, group in groups.items() if len(group) <= MAX_COPIES}
        boilerplate = sum(map(len, groups.values())) - sum(map(len, kept.values()))
        if len(kept) < MIN_PASSAGES:
            raise SynthesisError(
                f"There are {len(kept)} different texts ({empty} empty documents, "
                f"{boilerplate} with a text that occurs more than {MAX_COPIES} times). That "
                f"is too few to train an expert on, which needs at least {MIN_PASSAGES} and "
                "profits from hundreds. Add documents, or split long ones into passages."
            )
        return cls(
            items=tuple(_passage(key, group) for key, group in sorted(kept.items())),
            empty=empty,
            copies=sum(len(group) - 1 for group in kept.values()),
            boilerplate=boilerplate,
            shortened=sum(len(group[0].text) > READ_CHARACTERS for group in kept.values()),
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


def load_documents(source: str | Path) -> tuple[str, list[Document]]:
    """Return the name of a source and its documents.

    The name is what the documents are known by elsewhere: the whole of a hub name, and of a
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


def _passage(key: str, group: Sequence[Document]) -> Passage:
    first = min(group, key=lambda document: document.id)
    return Passage(
        key=key,
        documents=tuple(sorted(document.id for document in group)),
        title=first.title[:READ_CHARACTERS],
        text=first.text[:READ_CHARACTERS],
    )
