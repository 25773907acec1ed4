"""What any model says of its documents, whatever computes their vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from routerretriever.data.collection import Collection
from routerretriever.data.document import Document
from routerretriever.encoder.document_fingerprint import document_fingerprint
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.encoder.tokens import cutter_of
from routerretriever.kernels.vectors import Vectors
from routerretriever.passages.cutter import Cutter
from routerretriever.passages.passage import Passage
from routerretriever.progress import Progress

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Where Sentence Transformers looks for the prompt of documents, in this order."""


def document_prompt_of(prompts: Mapping[str, str | None]) -> str | None:
    """Return the prompt put before documents: of the first of its names, if not empty."""
    for name in _DOCUMENT_PROMPTS:
        if name in prompts:
            return prompts[name] or None
    return None


class WithDocuments(Protocol):
    """What :class:`DocumentMethods` needs of a model."""

    _cutter: tuple[object, Cutter] | None

    @property
    def prompts(self) -> Mapping[str, str | None]:
        """Name → prompt, as Sentence Transformers keeps them."""

    @property
    def base_fingerprint(self) -> str:
        """A hash of everything that decides the vectors of queries by the base, and those of documents."""

    @property
    def documents_fingerprint(self) -> str:
        """A hash of what decides the vectors of documents, without prompts."""

    @property
    def document_prompt(self) -> str | None:
        """The prompt put before documents."""

    @property
    def document_tokenizer(self) -> Any:
        """The tokeniser of documents."""

    @property
    def document_length(self) -> int | None:
        """Longest document in tokens."""

    @property
    def cutter(self) -> Cutter:
        """What cuts documents into passages."""

    def cut(self, document: Document) -> list[Passage]:
        """Return the passages of a document."""

    def reads_whole(self, document: Document) -> bool:
        """Return whether the base reads a document to its end."""

    def embed_texts(
        self, texts: Sequence[str], *, precision: str = "fp32", progress: Progress | None = None
    ) -> Vectors:
        """Return document vectors (n, d) from the cache, encoding only what is new."""


class DocumentMethods:
    """Prompts, passages and collections; every model encodes documents by the base."""

    _cutter: tuple[object, Cutter] | None = None
    """What cuts documents, after what it was made for."""

    @property
    def fingerprint(self: WithDocuments) -> str:
        """A hash of everything that decides document vectors, prompts included."""
        return document_fingerprint(self.documents_fingerprint, self.prompts)

    @property
    def identity(self: WithDocuments) -> str:
        """The same of queries by the base as well: another hash where they have an encoder of their own."""
        return document_fingerprint(self.base_fingerprint, self.prompts)

    @property
    def query_prompt(self: WithDocuments) -> str | None:
        """The prompt put before queries, if the base has one."""
        return self.prompts.get("query") or None

    @property
    def document_prompt(self: WithDocuments) -> str | None:
        """The prompt put before documents: of the first of its names, if not empty."""
        return document_prompt_of(self.prompts)

    def cut(self: WithDocuments, document: Document) -> list[Passage]:
        """Return the passages of a document that the base reads whole: one if it reads all of it."""
        return self.cutter.cut(document)

    def reads_whole(self: WithDocuments, document: Document) -> bool:
        """Return whether the base reads a document to its end."""
        return self.cutter.reads_whole(document)

    @property
    def cutter(self: WithDocuments) -> Cutter:
        """What cuts documents into passages that the base reads whole."""
        prompt = self.document_prompt or ""
        tokenizer, length = self.document_tokenizer, self.document_length
        key = (id(tokenizer), length, prompt)
        if self._cutter is None or self._cutter[0] != key:
            self._cutter = (key, cutter_of(tokenizer, length, prompt))
        return self._cutter[1]

    def embed_collection(
        self: WithDocuments, collection: Collection, *, progress: Progress | None = None
    ) -> DocumentVectors:
        """Return the vectors of a collection's documents, long ones by their passages."""
        return DocumentVectors.of(self, collection.documents, cut_off=collection.cut_off, progress=progress)
