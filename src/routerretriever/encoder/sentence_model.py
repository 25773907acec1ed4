"""A Sentence Transformers model around the routed encoder: what encodes queries and documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from routerretriever.encoder.bulk_documents import encode_documents, resolved_precision
from routerretriever.encoder.document_methods import DocumentMethods
from routerretriever.encoder.embedding_cache import EmbeddingCache
from routerretriever.encoder.encode_routed import encode_routed
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.encoder.routed_vectors import RoutedVectors
from routerretriever.encoder.token_ids import TokenIds, read_counts
from routerretriever.errors import ModelError
from routerretriever.expert_state import ExpertState
from routerretriever.kernels.vectors import Vectors
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.expert_info import BaseInfo
from routerretriever.lora.layers import shapes
from routerretriever.progress import Progress, Silent
from routerretriever.routing.candidates import ROUTED
from routerretriever.routing.scope import RoutingScope


class RoutedSentenceModel(DocumentMethods, SentenceTransformer):
    """Encodes every query by the expert it needs, and documents always by the base."""

    @property
    def encoder(self) -> RoutedEncoder:
        """The module that holds base, experts and router."""
        module = self[0]
        if not isinstance(module, RoutedEncoder):
            raise ModelError("This is a plain encoder. Wrap it with RouterRetriever.create(base).")
        return module

    @property
    def base(self) -> BaseInfo:
        """The base's public name."""
        return self.encoder.base

    @property
    def base_fingerprint(self) -> str:
        """A hash of everything that decides the base's vectors."""
        return self.encoder.fingerprint

    @property
    def documents_fingerprint(self) -> str:
        """A hash of what decides the vectors of documents, without prompts."""
        return self.encoder.documents.fingerprint

    @property
    def layout(self) -> dict[str, int]:
        """Where experts begin and where the router reads."""
        return self.encoder.get_config_dict()

    @property
    def layer_shapes(self) -> dict[str, tuple[int, int]]:
        """Name → shape (out, in) of the weight of each layer that experts may change."""
        return shapes(self.encoder.adapted_layers)

    @property
    def state(self) -> ExpertState:
        """Experts, infos and policy as one value that never changes; assigning another swaps all three."""
        return self.encoder.state

    @state.setter
    def state(self, state: ExpertState) -> None:
        self.encoder.state = state

    def encode_query(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Sentence Transformers' ``encode_query``: every query by the expert it needs, or by ``expert=…``.

        A few texts and no other option skip what that spends on options: a tenth of the time of a single query.
        """
        single = isinstance(inputs, str)
        texts = [inputs] if single else inputs
        usual = (
            not args and kwargs.keys() <= {"expert", "batch_size"} and kwargs.get("expert") in (None, ROUTED)
        )
        usual = usual and self.truncate_dim is None and self._distributed_inference is None
        if not usual or not _is_one_batch(texts, kwargs.get("batch_size", 32)):
            return super().encode_query(inputs, *args, **kwargs)
        vectors = self.encode_routed(texts).vectors
        return vectors[0] if single else vectors

    def encode_routed(
        self,
        queries: Sequence[str | TokenIds],
        experts: Sequence[str | None] | None = None,
        scopes: Sequence[RoutingScope | None] | None = None,
        *,
        state: ExpertState | None = None,
    ) -> RoutedVectors:
        """Encode a batch of queries in one pass, and say what encoded each.

        Args:
            queries: one batch of texts or token ids; those of very different length are better given apart.
            experts: one entry a query: a candidate that is pinned, or ``None`` to route it; default all routed.
            scopes: one entry a query: what it may be routed among, or ``None`` for all; default all.
            state: experts and policy in the place of the model's own.

        Raises:
            ExpertError: there is no such candidate.
        """
        if self.training:
            self.eval()
        return encode_routed(self.encoder, queries, experts, self.query_prompt, scopes, state)

    def check_not_silent(self, experts: Mapping[str, Adapter], where: str = "") -> None:
        """Refuse experts that change no query vector; see :meth:`RoutedEncoder.check_not_silent`.

        Raises:
            SilentExpertError: names them.
        """
        self.encoder.check_not_silent(experts, where)

    def route_embeddings(self, queries: Sequence[str]) -> Vectors:
        """Return what the router reads (n, d): unit vectors."""
        if not queries:
            return np.empty((0, self.encoder.route_dimension), np.float32)
        vectors: Vectors = self.encode_query(list(queries), route_only=True, batch_size=64)
        return vectors

    # -- for servers ---------------------------------------------------------------------------------

    @property
    def cores(self) -> int:
        """How many threads compute at a time on a processor; 1 where an accelerator does."""
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    def use_threads(self, number: int) -> None:
        """Let what this thread encodes use at most so many threads."""
        if self.device.type == "cpu":
            torch.set_num_threads(number)

    def token_counts(self, texts: Sequence[str | TokenIds]) -> list[int]:
        """Return how many tokens are read of each document or of its ids, without a prompt."""
        only_texts = [text for text in texts if isinstance(text, str)]
        if len(only_texts) == len(texts):
            return self.encoder.documents.token_counts(only_texts)
        return read_counts(texts, self.document_tokenizer, self.document_length)

    def encode_documents(self, documents: Sequence[str | TokenIds]) -> Vectors:
        """Return vectors (n, d) of one batch of documents: texts or token ids."""
        if all(isinstance(text, str) for text in documents):
            vectors: Vectors = self.encode_document(list(documents), batch_size=len(documents))
            return vectors
        with torch.inference_mode():
            encoder = self.encoder.documents
            features = encoder.tokenized(documents, self.document_prompt)
            found = encoder.encode_plainly(features)["sentence_embedding"]
        encoded: Vectors = found.float().cpu().numpy()
        return encoded

    def encode_in_bulk(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of any number of documents (n, d), in fp32."""
        return encode_documents(self, texts)

    # -- documents ---------------------------------------------------------------------------------

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self.encoder.dimension

    @property
    def document_tokenizer(self) -> Any:
        """The tokeniser of documents; ``None`` where there is none that takes token ids."""
        return self.encoder.documents.tokenizer

    @property
    def document_length(self) -> int | None:
        """Longest document in tokens, after which it is cut off; ``None`` where nothing is."""
        return self.encoder.documents.max_seq_length

    def document_precision(self, precision: str) -> str:
        """Return the precision that documents are encoded in here: ``auto`` depends on the device.

        Raises:
            ModelError: there is no such precision, or not on this device.
        """
        return resolved_precision(precision, self.device, is_opened=self.encoder.documents.is_opened)

    def embed_texts(
        self, texts: Sequence[str], *, precision: str = "fp32", progress: Progress | None = None
    ) -> Vectors:
        """Return document vectors (n, d) from the cache, encoding only what is new.

        Args:
            texts: any number of them.
            precision: ``fp32``, ``bf16``, ``int8`` or ``auto``; see
                :func:`routerretriever.encoder.bulk_documents.encode_documents`.
            progress: where to report.
        """
        precision = self.document_precision(precision)
        if self.encoder.documents.keeps_vectors:
            with (progress or Silent()).task("embed documents", len(texts)) as task:
                return encode_documents(self, texts, precision=precision, done=task.advance)
        name = self.fingerprint if precision == "fp32" else f"{self.fingerprint}-{precision}"
        cache = EmbeddingCache(name, self.encoder.dimension)
        return cache.vectors(
            texts,
            lambda block, done: encode_documents(self, block, precision=precision, done=done),
            progress=progress,
        )

    def keep_vectors(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Put document vectors (n, d) of this base into the cache, so that nothing encodes the texts again."""
        EmbeddingCache(self.fingerprint, self.encoder.dimension).put(texts, vectors, replacing=False)


def _is_one_batch(texts: Any, size: int) -> bool:
    return isinstance(texts, list) and 0 < len(texts) <= size and all(isinstance(text, str) for text in texts)
