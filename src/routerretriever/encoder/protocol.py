"""What other parts of the package need of a model, so that they need not import the facade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from routerretriever.data.collection import Collection
from routerretriever.data.document import Document
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.encoder.routed_vectors import RoutedVectors
from routerretriever.expert_state import ExpertState
from routerretriever.kernels.vectors import Vectors
from routerretriever.lora.expert_info import BaseInfo, ExpertInfo
from routerretriever.passages.passage import Passage
from routerretriever.progress import Progress
from routerretriever.routing.explain import Route
from routerretriever.routing.pilot_library import PilotLibrary

if TYPE_CHECKING:  # what asks for a model may do without torch
    import torch

    from routerretriever.encoder.routed_encoder import RoutedEncoder


class RoutedModel(Protocol):
    """A model that encodes queries by its experts and documents by its base.

    Attributes:
        state: experts, infos and policy of this moment.
    """

    state: ExpertState

    @property
    def encoder(self) -> RoutedEncoder:
        """The base encoder with the experts."""

    @property
    def base(self) -> BaseInfo:
        """The base's public name."""

    @property
    def layer_shapes(self) -> Mapping[str, tuple[int, int]]:
        """Name → shape (out, in) of the weight of each layer that experts may change."""

    @property
    def experts(self) -> Mapping[str, ExpertInfo]:
        """Expert name → what is known of it."""

    @property
    def library(self) -> PilotLibrary | None:
        """The pilot library, if it was built."""

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides document vectors."""

    @property
    def identity(self) -> str:
        """The same of queries by the base as well."""

    @property
    def query_prompt(self) -> str | None:
        """The prompt put before queries."""

    @property
    def similarity_fn_name(self) -> Any:
        """``cosine`` or ``dot``."""

    @property
    def device(self) -> torch.device:
        """Where the model computes."""

    @property
    def prompts(self) -> Any:
        """The base's prompts by name."""

    @property
    def default_prompt_name(self) -> Any:
        """The prompt that the base uses where no other is asked for."""

    @property
    def truncate_dim(self) -> Any:
        """Length that embeddings are cut to, if they are."""

    def save_pretrained(self, path: str | Path) -> None:
        """Write the model into a folder."""

    def route(self, queries: str | Sequence[str], *, n_pilots: int = 5) -> list[Route]:
        """Explain where each query goes."""

    def encode_query(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Encode queries (n, d), each by the expert it needs or by a pinned one."""

    def encode_document(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Encode documents (n, d) by the base."""

    def encode_routed(
        self, queries: Sequence[str], experts: Sequence[str | None] | None = None
    ) -> RoutedVectors:
        """Encode a batch of queries, and say what encoded each."""

    def route_embeddings(self, queries: Sequence[str]) -> Vectors:
        """Return what the router reads (n, d)."""

    def embed_texts(
        self, texts: Sequence[str], *, precision: str = "fp32", progress: Progress | None = None
    ) -> Vectors:
        """Return document vectors (n, d) from the cache or the base."""

    def cut(self, document: Document) -> list[Passage]:
        """Return the passages of a document: one if the base reads it whole."""

    def reads_whole(self, document: Document) -> bool:
        """Return whether the base reads a document to its end."""

    def embed_collection(
        self, collection: Collection, *, progress: Progress | None = None
    ) -> DocumentVectors:
        """Return the vectors of a collection's documents, long ones by their passages."""
