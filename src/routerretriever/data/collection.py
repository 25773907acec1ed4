"""Collections: documents, queries and relevance judgements, from wherever they are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from routerretriever.data.beir import read_beir_folder
from routerretriever.data.document import Document, content_hash, record_id
from routerretriever.data.hub import hub_rows, read_hub
from routerretriever.data.ir_datasets_source import read_ir_datasets
from routerretriever.data.jsonl import read_jsonl
from routerretriever.data.names import check_collection_name, collection_name
from routerretriever.data.pairs import Records, read_pairs_file
from routerretriever.data.raw_collection import RawCollection, check_collection
from routerretriever.data.splits import HELD_OUT_LIMIT, Split, division_keys, part_held_out
from routerretriever.data.text import check_text
from routerretriever.errors import CollectionError

_IR_DATASETS = "ir_datasets:"
_QUERIES_ARE_DOCUMENTS = ("arguana", "quora")
"""Collections of BEIR whose queries are documents of the collection themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Documents and judged queries of one domain.

    Attributes:
        name: short name; an expert that is trained on the collection has it by default.
        documents: in a stable order.
        splits: split name → judged queries.
        ignore_identical_ids: BEIR's rule: a document with the id of the query is
            neither a result nor a negative, as in ArguAna and Quora, whose queries are
            documents.
        generated: query id → how it was made, for queries that nobody asked
            (``metadata.generated``).
        source: of a synthesised collection, the one its queries were made from; else
            empty.
        left_out: fields of documents that were not kept, because they hold lists or
            other values that no filter could ask for.
        cut_off: whether only the beginning of long documents is compared with queries,
            as much as the base reads: what the paper and BEIR's leaderboards do.
            Otherwise documents are ranked by their best passage, as an index does.
        place: that it was read from: path from the root, hub name or ``ir_datasets:ID``; empty for
            one that was made in memory.
        strict: whether it was read so that nothing of it was dropped.
    """

    name: str
    documents: tuple[Document, ...]
    splits: Mapping[str, Split]
    ignore_identical_ids: bool = False
    generated: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    left_out: tuple[str, ...] = ()
    cut_off: bool = False
    place: str = ""
    strict: bool = True

    def __post_init__(self) -> None:
        check_collection_name(self.name)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        name: str | None = None,
        strict: bool = True,
        ignore_identical_ids: bool | None = None,
        cut_off: bool = False,
    ) -> Self:
        """Read a collection.

        Args:
            source: a folder in BEIR's layout, a pairs file (JSONL, CSV or TSV), a hub
                name such as ``BeIR/scifact``, or ``ir_datasets:ID``.
            name: replaces the name derived from the source.
            strict: ``False`` drops judgements that contradict each other or name an
                unknown document or query, queries without a positive document, and
                columns of pairs that are not understood, instead of raising.
            ignore_identical_ids: whether documents with the id of the query are left
                out; default yes for ArguAna and Quora, as in BEIR, and no for all
                others.
            cut_off: whether the end of long documents is left unread in evaluation and
                training, as the paper and BEIR's leaderboards do.

        Raises:
            CollectionError: the source does not exist, cannot be read, or contradicts
                itself.
        """
        raw = _read(str(source), strict)
        documents, splits = check_collection(raw, str(source), strict)
        if ignore_identical_ids is None:
            ignore_identical_ids = _has_queries_that_are_documents(str(source))
        return cls(
            name=name or collection_name(source),
            documents=documents,
            splits=splits,
            ignore_identical_ids=ignore_identical_ids,
            generated=raw.generated,
            source=raw.source,
            left_out=tuple(sorted(raw.left_out)),
            cut_off=cut_off,
            place=_place_of(str(source)),
            strict=strict,
        )

    def split(self, name: str) -> Split:
        """Return one split by name.

        Raises:
            CollectionError: there is no such split.
        """
        if name not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise CollectionError(f"The collection '{self.name}' has no split '{name}'. It has: {known}.")
        return self.splits[name]

    def tested_on(self, split: str) -> Self:
        """Return this collection with another split as ``test``.

        The split is no longer available under its own name.

        Raises:
            CollectionError: there is no such split.
        """
        others = {n: part for n, part in self.splits.items() if n not in (split, "test")}
        return replace(self, splits={**others, "test": self.split(split)})

    def with_generated_queries(self, source: str) -> Self:
        """Return this collection with generated queries as its train split.

        Args:
            source: a hub name in the layout of ``BeIR/…-generated-queries``, or a JSONL
                file with the same fields: ``_id`` of the document and ``query``.

        Raises:
            CollectionError: the source cannot be read, or names no document of this
                collection.
        """
        path = Path(source).expanduser()
        records: Records = read_jsonl(path) if path.is_file() else hub_rows(source)
        known = set(self.document_ids)
        queries: dict[str, str] = {}
        qrels: dict[str, dict[str, int]] = {}
        for number, (where, record) in enumerate(records):
            document_id, query = record_id(record, where), record.get("query")
            if document_id in known and query:
                queries[f"generated-{number}"] = check_text(str(query), where)
                qrels[f"generated-{number}"] = {document_id: 1}
        if not queries:
            raise CollectionError(f"'{source}' has no generated query for a document of '{self.name}'.")
        return replace(
            self,
            splits={**self.splits, "train": Split("train", queries, qrels)},
            generated={**self.generated, **dict.fromkeys(queries, "generated-queries")},
        )

    def train_and_held_out(self) -> tuple[Split, Split]:
        """Return queries to train on, and others to stop early and to measure gains on.

        The held-out queries are the dev split, or a fixed share of train that is chosen
        by a hash of the text. No text is in both, however it is written, and no
        document has generated queries in both.

        Raises:
            CollectionError: there is no train split, or all dev queries are train
                queries.
        """
        train = self.split("train")
        if "dev" not in self.splits:
            return part_held_out(train, self.generated)
        dev = self.splits["dev"]
        held_out = dev.without_copies_of(train, self.generated)
        if not held_out:
            raise CollectionError(
                f"All {len(dev)} dev queries of '{self.name}' are train queries, too, or were generated from "
                "the documents of generated train queries, so none is left to measure on. Give other dev "
                "queries, or none: then a part of train is held out."
            )
        return train, held_out.sample(HELD_OUT_LIMIT)

    def training_digest(self) -> str:
        """Return a hash of everything that a training reads: documents, and queries to train on and held out."""
        digest = hashlib.blake2b(digest_size=16)
        for document in self.documents:
            digest.update(content_hash(document))
        for name in ("train", "dev"):
            if split := self.splits.get(name):
                judged = [name, list(split.queries.items()), list(split.qrels.items())]
                digest.update(json.dumps(judged, ensure_ascii=False).encode())
        return digest.hexdigest()

    def division_keys(self, split: Split) -> list[str]:
        """Return a key of each query of a split; see :func:`routerretriever.data.splits.division_keys`."""
        return division_keys(split, self.generated)

    @property
    def contents(self) -> list[str]:
        """The text of every document, as it is encoded."""
        return [document.content for document in self.documents]

    @property
    def document_ids(self) -> list[str]:
        """The id of every document, in order."""
        return [document.id for document in self.documents]


def _read(source: str, strict: bool) -> RawCollection:
    path = Path(source).expanduser()
    if source.startswith(_IR_DATASETS):
        return read_ir_datasets(source.removeprefix(_IR_DATASETS))
    if path.is_dir():
        return read_beir_folder(path)
    if path.is_file():
        return read_pairs_file(path, strict)
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return read_hub(source, strict)
    raise CollectionError(
        f"There is no collection at '{source}'. Give a BEIR folder (corpus.jsonl, "
        "queries.jsonl, qrels/), a pairs file (.jsonl, .csv, .tsv), a hub name such as "
        "BeIR/scifact, or ir_datasets:ID."
    )


def _place_of(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def _has_queries_that_are_documents(source: str) -> bool:
    if source.startswith(_IR_DATASETS):
        names = source.removeprefix(_IR_DATASETS).split("/")
    else:
        names = [collection_name(source)]
    return any(name.casefold() in _QUERIES_ARE_DOCUMENTS for name in names)
