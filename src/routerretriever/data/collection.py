"""Collections: documents, queries and relevance judgements, from wherever users keep them.

``Collection.load`` reads a BEIR directory, a hub data set in BEIR's layout (``BeIR/scifact``), an
``ir_datasets:`` id, or a file of pairs (JSONL, CSV or TSV with a query and a positive text).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from routerretriever.data.document import Document, sound_text
from routerretriever.data.files import read_beir_directory, read_pairs
from routerretriever.data.jsonl import read_jsonl
from routerretriever.data.raw_collection import check_collection
from routerretriever.data.remote import hub_rows, read_hub, read_ir_datasets
from routerretriever.data.splits import HELD_OUT_LIMIT, HELD_OUT_SHARE, Split, stable_hash
from routerretriever.errors import CollectionError


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents and judged queries of one domain.

    Attributes:
        name: short name; an expert trained on the collection bears it by default.
        documents: in a stable order.
        splits: split name → judged queries.
        ignore_identical_ids: BEIR's rule: a document whose id equals the query's is not a result
            (ArguAna and Quora ask with texts that are themselves documents).
        generated: query id → how it was made, for queries that nobody asked (``metadata.generated``).
        source: of a synthesised collection, the one whose documents its queries were made from; else empty.
    """

    name: str
    documents: tuple[Document, ...]
    splits: Mapping[str, Split]
    ignore_identical_ids: bool = False
    generated: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    @classmethod
    def load(cls, source: str | Path, *, name: str | None = None, strict: bool = True) -> Self:
        """Read a collection.

        Args:
            source: a BEIR directory, a pairs file, a hub name, or ``ir_datasets:ID``.
            name: overrides the name derived from the source.
            strict: ``False`` drops judgements of unknown documents or queries, and queries
                without a positive, instead of raising.

        Raises:
            CollectionError: the source does not exist, cannot be read, or contradicts itself.
        """
        text = str(source)
        path = Path(text).expanduser()
        if text.startswith("ir_datasets:"):
            reader = read_ir_datasets(text.removeprefix("ir_datasets:"))
        elif path.is_dir():
            reader = read_beir_directory(path)
        elif path.is_file():
            reader = read_pairs(path)
        elif text.count("/") == 1 and not text.startswith((".", "/", "~")):
            reader = read_hub(text)
        else:
            raise CollectionError(
                f"There is no collection at '{text}'. Give a BEIR directory (corpus.jsonl, queries.jsonl, "
                "qrels/), a pairs file (.jsonl, .csv, .tsv), a hub name such as BeIR/scifact, or "
                "ir_datasets:ID."
            )
        default_name = path.resolve().stem if path.exists() else text.replace(":", "/").split("/")[-1]
        documents, splits = check_collection(reader, text, strict)
        return cls(name or default_name, documents, splits, generated=reader.generated, source=reader.source)

    def split(self, name: str) -> Split:
        """One split by name.

        Raises:
            CollectionError: there is no such split.
        """
        if name not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise CollectionError(f"The collection '{self.name}' has no split '{name}'. It has: {known}.")
        return self.splits[name]

    def tested_on(self, split: str) -> Self:
        """This collection with another split as ``test``; under its own name it is gone.

        Raises:
            CollectionError: there is no such split.
        """
        others = {name: part for name, part in self.splits.items() if name not in (split, "test")}
        return replace(self, splits={**others, "test": self.split(split)})

    def with_generated_queries(self, source: str) -> Self:
        """This collection with generated queries as its train split.

        Args:
            source: a hub name in the layout of ``BeIR/…-generated-queries``, or a JSONL file of the same:
                ``_id`` of the document and ``query``.

        Raises:
            CollectionError: the source cannot be read, or names no document of this collection.
        """
        path = Path(source).expanduser()
        records = (record for _, record in read_jsonl(path)) if path.is_file() else hub_rows(source)
        known = set(self.document_ids)
        queries, qrels = {}, {}
        for number, record in enumerate(records):
            if str(record.get("_id")) in known and record.get("query"):
                queries[f"generated-{number}"] = sound_text(str(record["query"]), source)
                qrels[f"generated-{number}"] = {str(record["_id"]): 1}
        if not queries:
            raise CollectionError(f"'{source}' holds no generated query for a document of '{self.name}'.")
        return replace(
            self,
            splits={**self.splits, "train": Split("train", queries, qrels)},
            generated={**self.generated, **dict.fromkeys(queries, "generated-queries")},
        )

    def train_and_held_out(self) -> tuple[Split, Split]:
        """Queries to train on, and disjoint ones to stop early and to measure gains on.

        The held-out queries are the dev split, or a fixed share of train chosen by a hash of the
        query id, so that training and the pilot library agree on them without sharing state.
        """
        train = self.split("train")
        if "dev" in self.splits:
            seen = {text.strip().lower() for text in train.queries.values()}
            dev = self.splits["dev"]
            fresh = dev.restrict(q for q, text in dev.queries.items() if text.strip().lower() not in seen)
            return train, Split("dev", fresh.queries, fresh.qrels).sample(HELD_OUT_LIMIT)
        # Hashing the text keeps copies of one question on the same side.
        ranked = sorted(train.queries, key=lambda q: stable_hash(train.queries[q].strip().lower()))
        cut = min(HELD_OUT_LIMIT, max(1, round(HELD_OUT_SHARE * len(ranked))))
        while cut < len(ranked) and train.queries[ranked[cut]] == train.queries[ranked[cut - 1]]:
            cut += 1
        held_out = train.restrict(ranked[:cut])
        return train.restrict(ranked[cut:]), Split("train (held out)", held_out.queries, held_out.qrels)

    @property
    def contents(self) -> list[str]:
        """The text of every document, as it is encoded."""
        return [document.content for document in self.documents]

    @property
    def document_ids(self) -> list[str]:
        """The id of every document, in order."""
        return [document.id for document in self.documents]
