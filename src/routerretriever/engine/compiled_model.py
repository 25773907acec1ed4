"""A saved model, opened without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from routerretriever.encoder.batch_routing import BatchRouting
from routerretriever.encoder.document_methods import DocumentMethods
from routerretriever.encoder.embedding_cache import EmbeddingCache
from routerretriever.encoder.expert_methods import ExpertMethods
from routerretriever.encoder.routed_vectors import RoutedVectors
from routerretriever.encoder.silent import EXPERTS_AT_ONCE, refuse_silent, silent_experts
from routerretriever.encoder.text_tokenizer import TextTokenizer
from routerretriever.encoder.token_batches import batches
from routerretriever.encoder.token_ids import TokenIds, read_counts
from routerretriever.engine.engine_base import EngineBase
from routerretriever.engine.engine_info import FP32, INT8, EngineInfo, fresh_engine_info
from routerretriever.engine.experts import EngineExperts
from routerretriever.errors import EngineError
from routerretriever.expert_state import ExpertState
from routerretriever.kernels.threads import available_threads
from routerretriever.kernels.vectors import Vectors
from routerretriever.lora.adapter import VECTOR_MAP, Adapter
from routerretriever.lora.expert_info import BaseInfo, ExpertInfo
from routerretriever.lora.fits import check_fits
from routerretriever.progress import Progress
from routerretriever.routing.candidates import ROUTED
from routerretriever.routing.scope import RoutingScope
from routerretriever.sharing.save_parts import save_parts
from routerretriever.storage.model_folder import (
    DOCUMENTS,
    ModelParts,
    read_json,
    read_model_info,
    read_state,
    recorded_base,
)

_SETTINGS = "config_sentence_transformers.json"
_BATCH_TOKENS = 1024
"""Tokens of a batch of documents, padding included."""


class CompiledModel(ExpertMethods, DocumentMethods):
    """Encodes queries by their experts and documents by the base, with the engine beside a saved model.

    It answers as :class:`routerretriever.RouterRetriever` does: the same routes, and vectors that differ
    in the seventh digit; in the second or third if it was compiled in 8 bits. It cannot train or measure.

    Args:
        folder: of the model.
        info: of its engine.
        base: its name.
        documents: name of the base of documents and the description of its engine, where it is another.
        state: experts, infos and policy.
        settings: prompts and similarity, as Sentence Transformers saves them.
        threads: that one batch uses; default one a core.
    """

    def __init__(
        self,
        *,
        folder: Path,
        info: EngineInfo,
        base: BaseInfo,
        state: ExpertState,
        settings: Mapping[str, Any],
        documents: tuple[BaseInfo, EngineInfo] | None = None,
        threads: int | None = None,
    ) -> None:
        self.folder = folder
        self.info = info
        self.base = base
        self.prompts: dict[str, str] = dict(settings.get("prompts") or {})
        self.similarity_fn_name = str(settings.get("similarity_fn_name") or "cosine")
        self._queries = self._documents = EngineBase(folder, info, threads)
        self._document_base: BaseInfo | None = None
        if documents is not None:
            self._document_base, about = documents
            self._documents = EngineBase(folder / DOCUMENTS, about, threads)
        self._fitted = lru_cache(maxsize=2)(self._fitting)  # the model's own, and another state
        self.state = state

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None) -> Self:
        """Open a saved model that has a compiled engine.

        Raises:
            EngineError: there is no engine, or it is stale, damaged or of another version.
            FormatError: the model is missing or damaged.
            SilentExpertError: an expert changes nothing.
        """
        model_info = read_model_info(folder)
        info = fresh_engine_info(folder, model_info)
        other = model_info.get(DOCUMENTS)
        documents: tuple[BaseInfo, EngineInfo] | None = None
        if other is not None:
            documents = recorded_base(other), fresh_engine_info(folder / DOCUMENTS, other)
        model = cls(
            folder=folder,
            info=info,
            base=recorded_base(model_info),
            documents=documents,
            state=read_state(folder, model_info, info.layers, info.fingerprint),
            settings=read_json(folder / _SETTINGS) if (folder / _SETTINGS).exists() else {},
            threads=threads,
        )
        model.check_not_silent(model.state.experts, f" in {folder}")
        return model

    # -- what it is --------------------------------------------------------------------------------

    @property
    def state(self) -> ExpertState:
        """Experts, infos and policy as one value that never changes; assigning another swaps all three."""
        return self._experts.state

    @state.setter
    def state(self, state: ExpertState) -> None:
        self._experts = self._fitted(state)

    def _fitting(self, state: ExpertState) -> EngineExperts:
        for name, adapter in state.experts.items():
            check_fits(adapter, self.layer_shapes, f"The expert '{name}'")
        return EngineExperts(state, self.info, self._queries.folder)

    @property
    def base_fingerprint(self) -> str:
        """A hash of everything that decides the base's vectors."""
        return self.info.fingerprint

    @property
    def documents_fingerprint(self) -> str:
        """A hash of what decides the vectors of documents, without prompts."""
        return self._documents.info.fingerprint

    @property
    def layout(self) -> dict[str, int]:
        """Where experts begin and where the router reads."""
        return {"branch_layer": self.info.branch_layer, "route_layer": self.info.route_layer}

    @property
    def layer_shapes(self) -> dict[str, tuple[int, int]]:
        """Name → shape (out, in) of the weight of each layer that experts may change."""
        shapes = {name: (layer.outputs, layer.inputs) for name, layer in self.info.layers.items()}
        return {**shapes, VECTOR_MAP: (self.info.dimension, self.info.dimension)}

    @property
    def tokenizer(self) -> TextTokenizer:
        """The base's tokeniser."""
        return self._queries.tokenizer

    @property
    def document_tokenizer(self) -> TextTokenizer:
        """The tokeniser of documents."""
        return self._documents.tokenizer

    @property
    def document_length(self) -> int | None:
        """Longest document in tokens; the rest is cut off."""
        return self._documents.info.tokenizer.max_seq_length

    @property
    def cores(self) -> int:
        """How many threads compute at a time, all batches together."""
        return available_threads()

    def use_threads(self, number: int) -> None:
        """Do nothing: threads belong to the graphs, and are chosen when the model is opened."""

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self.info.dimension

    @property
    def max_seq_length(self) -> int | None:
        """Longest input in tokens; the rest of a text is cut off."""
        return self.info.tokenizer.max_seq_length

    # -- queries -----------------------------------------------------------------------------------

    def encode_query(
        self,
        inputs: str | Sequence[str],
        *,
        expert: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool = False,
    ) -> Vectors:
        """Return vectors of queries (n, d), or (d,) of one: each by the expert it needs, or by ``expert``.

        Args:
            inputs: one query or several.
            expert: pins ``base``, ``merged`` or an expert; ``routed`` or ``None`` routes.
            batch_size: queries of a batch.
            show_progress_bar: has no effect; it is there because models of Sentence Transformers take it.
        """
        if isinstance(inputs, str):
            only: Vectors = self.encode_query([inputs], expert=expert)[0]
            return only
        pinned = None if expert == ROUTED else expert

        def encode(texts: Sequence[str]) -> Vectors:
            return self.encode_routed(texts, [pinned] * len(texts)).vectors

        return self._by_length(inputs, batch_size, encode, self.info.dimension)

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
        present = self._experts if state is None else self._fitted(state)
        routing = BatchRouting(present.state, len(queries), experts, scopes)
        tokens = self._queries.tokenizer.batch(queries, self.query_prompt)
        vectors, weights = self._queries.passes.routed(tokens, self.query_prompt, routing, present)
        return routing.result(vectors, weights, tokens.mask.sum(axis=1))

    def route_embeddings(self, queries: Sequence[str]) -> Vectors:
        """Return what the router reads (n, d): unit vectors."""

        def encode(texts: Sequence[str]) -> Vectors:
            tokens = self._queries.tokenizer.batch(texts, self.query_prompt)
            return self._queries.passes.route_embeddings(tokens, self.query_prompt)

        return self._by_length(queries, EXPERTS_AT_ONCE, encode, self.info.route_dimension)

    def check_not_silent(self, experts: Mapping[str, Adapter], where: str = "") -> None:
        """Refuse experts that change no query vector.

        Args:
            experts: name → adapter, not necessarily the model's.
            where: they are, as the end of "The expert 'NAME'".

        Raises:
            ExpertError: one does not fit the base.
            SilentExpertError: names them.
        """
        fitting = self._experts  # of many experts, another arrangement takes a second and as much memory
        if experts is not self.state.experts:
            state = ExpertState(experts=experts, infos={name: ExpertInfo() for name in experts})
            fitting = self._fitting(state)

        def largest_changes(names: Sequence[str], probe: str) -> Sequence[float]:
            read, passes = self._queries.tokenizer, self._queries.passes
            base = passes.base(read.batch([probe], None), None)
            routing = BatchRouting(fitting.state, len(names), names)
            vectors, _ = passes.routed(read.batch([probe] * len(names), None), None, routing, fitting)
            changes: list[float] = np.abs(vectors - base).max(axis=1).tolist()
            return changes

        refuse_silent(silent_experts(list(experts), largest_changes), where)

    # -- changes -----------------------------------------------------------------------------------

    def parts(self) -> ModelParts:
        """Return what a model's folder holds besides the base's own files."""
        return ModelParts(
            state=self.state,
            base=self.base,
            fingerprint=self.info.fingerprint,
            layout=self.layout,
            layers=tuple(self.info.layers),
            documents=self._document_base,
        )

    def save_experts(self, path: str | Path) -> None:
        """Write experts and pilots into a saved model of the same base, whose other files stay as they are.

        Raises:
            FormatError: there is no model at ``path``.
            FingerprintError: it has another base.
            StorageError: it could not be written; what was there is unchanged.
        """
        save_parts(self.parts(), self.document_length, path)

    # -- documents ---------------------------------------------------------------------------------

    def encode_document(
        self, inputs: str | Sequence[str], *, batch_size: int = 32, show_progress_bar: bool = False
    ) -> Vectors:
        """Return vectors of documents (n, d), or (d,) of one, by the base.

        Args:
            inputs: one document or several.
            batch_size: documents of a batch.
            show_progress_bar: has no effect; it is there because models of Sentence Transformers take it.
        """
        if isinstance(inputs, str):
            only: Vectors = self.encode_document([inputs])[0]
            return only
        return self._by_length(inputs, batch_size, self.encode_documents, self.info.dimension)

    def encode_documents(self, documents: Sequence[str | TokenIds], *, precision: str = FP32) -> Vectors:
        """Return vectors (n, d) of one batch of documents: texts or token ids."""
        return self._documents.encode(documents, self.document_prompt, precision)

    def token_counts(self, texts: Sequence[str | TokenIds]) -> list[int]:
        """Return how many tokens are read of each document or of its ids, without a prompt."""
        return read_counts(texts, self.document_tokenizer, self.document_length)

    def document_precision(self, precision: str) -> str:
        """Return the precision that documents are encoded in: ``auto`` is ``fp32``.

        Raises:
            EngineError: the engine has no such graphs.
        """
        if precision == "auto":
            return FP32
        if precision in self._documents.precisions:
            return precision
        remedy = "Compile the model with --precision int8" if precision == INT8 else "Choose fp32 or auto"
        raise EngineError(
            f"This compiled engine does not encode documents in {precision}. {remedy}, or use torch: engine='torch'."
        )

    def embed_texts(
        self, texts: Sequence[str], *, precision: str = "fp32", progress: Progress | None = None
    ) -> Vectors:
        """Return document vectors (n, d) from the cache, encoding only what is new.

        Args:
            texts: any number of them.
            precision: ``fp32``, ``auto``, or ``int8`` if the model was compiled so.
            progress: where to report.
        """
        precision = self.document_precision(precision)
        # Torch rounds in another way, and has a cache of its own.
        name = self.fingerprint if precision == FP32 else f"{self.fingerprint}-{precision}-tokens"
        cache = EmbeddingCache(name, self.info.dimension)
        return cache.vectors(texts, partial(self.encode_in_bulk, precision=precision), progress=progress)

    def encode_in_bulk(
        self, texts: Sequence[str], done: Callable[[int], None] | None = None, *, precision: str = FP32
    ) -> Vectors:
        """Return vectors of any number of documents (n, d).

        Args:
            texts: in any order.
            done: is told after each batch how many texts it had.
            precision: ``fp32``, or ``int8`` if the model was compiled so.
        """
        vectors = np.empty((len(texts), self.info.dimension), np.float32)
        for rows in batches(self.token_counts(texts), _BATCH_TOKENS):
            vectors[rows] = self.encode_documents([texts[row] for row in rows], precision=precision)
            if done is not None:
                done(len(rows))
        return vectors

    def _by_length(
        self, texts: Sequence[str], size: int, encode: Callable[[Sequence[str]], Vectors], dimension: int
    ) -> Vectors:
        """Encode texts in batches of similar length."""
        vectors = np.empty((len(texts), dimension), np.float32)
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            vectors[rows] = encode([texts[row] for row in rows])
        return vectors
