"""What a server asks of a model, whatever computes its vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from routerretriever.data.document import Document
from routerretriever.encoder.routed_vectors import RoutedVectors
from routerretriever.encoder.token_ids import TokenIds
from routerretriever.expert_state import ExpertState
from routerretriever.kernels.vectors import Vectors
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.expert_info import BaseInfo, ExpertInfo
from routerretriever.passages.passage import Passage
from routerretriever.progress import Progress
from routerretriever.routing.scope import RoutingScope


class ServedModel(Protocol):
    """A model that answers, and whose experts come and go.

    Attributes:
        state: experts, infos and policy of this moment.
    """

    state: ExpertState

    @property
    def base(self) -> BaseInfo:
        """The base's public name."""

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides document vectors."""

    @property
    def base_fingerprint(self) -> str:
        """A hash of everything that decides the base's vectors."""

    @property
    def layout(self) -> Mapping[str, int]:
        """Where experts begin and where the router reads."""

    @property
    def layer_shapes(self) -> Mapping[str, tuple[int, int]]:
        """Name → shape (out, in) of the weight of each layer that experts may change."""

    @property
    def similarity_fn_name(self) -> Any:
        """How vectors are compared: ``cosine`` or ``dot``."""

    @property
    def dimension(self) -> int:
        """Length of the vectors."""

    @property
    def max_seq_length(self) -> Any:
        """Longest input in tokens; ``None`` for any."""

    @property
    def tokenizer(self) -> Any:
        """The base's tokeniser."""

    @property
    def document_tokenizer(self) -> Any:
        """The tokeniser of documents."""

    @property
    def cores(self) -> int:
        """How many threads compute at a time on a processor; 1 where an accelerator does."""

    def use_threads(self, number: int) -> None:
        """Let what this thread encodes use at most so many threads, where that can be changed."""

    def document_precision(self, precision: str) -> str:
        """Return the precision that documents are encoded in, given the one asked for."""

    def cut(self, document: Document) -> list[Passage]:
        """Return the passages of a document that the base reads whole."""

    def embed_texts(
        self, texts: Sequence[str], *, precision: str = "fp32", progress: Progress | None = None
    ) -> Vectors:
        """Return the vectors of documents (n, d)."""

    def encode_query(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the vectors of queries (n, d), routed or by a pinned ``expert``."""

    def encode_routed(
        self,
        queries: Sequence[str | TokenIds],
        experts: Sequence[str | None] | None = None,
        scopes: Sequence[RoutingScope | None] | None = None,
        *,
        state: ExpertState | None = None,
    ) -> RoutedVectors:
        """Encode a batch of queries, each within its scope, and say what encoded each."""

    def encode_documents(self, documents: Sequence[str | TokenIds]) -> Vectors:
        """Return vectors (n, d) of one batch of documents: texts or token ids."""

    def encode_in_bulk(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of any number of documents (n, d), in fp32."""

    def token_counts(self, texts: Sequence[str | TokenIds]) -> list[int]:
        """Return how many tokens are read of each document or of its ids, without a prompt."""

    def check_candidate(self, name: str) -> None:
        """Refuse a name that is neither ``base``, ``merged`` nor an expert."""

    def check_not_silent(self, experts: Mapping[str, Adapter], where: str = "") -> None:
        """Refuse experts that change no query vector."""

    def add_expert(
        self, name: str, adapter: Adapter, info: ExpertInfo | None = None, *, replace: bool = False
    ) -> None:
        """Add an expert."""

    def remove_expert(self, name: str) -> None:
        """Remove an expert and its column of gains."""

    def set_gains(self, name: str, gains: Mapping[str, float | Sequence[float]]) -> None:
        """Fill an expert's column of the pilot library."""

    def save_experts(self, path: str | Path) -> None:
        """Write experts and pilots into a saved model of the same base."""
