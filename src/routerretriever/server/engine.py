"""What the server does, apart from HTTP: one model, one index, and everything that may be asked of them."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from routerretriever.data.document import Document
from routerretriever.errors import ExpertError
from routerretriever.index.filters import Condition
from routerretriever.index.index import Index
from routerretriever.index.search import Hit, Mode
from routerretriever.kernels.exact_search import Vectors
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.expert_info import ExpertInfo
from routerretriever.routing.candidates import BASE
from routerretriever.routing.explain import Route, explain_routes
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.server.batching import Batcher, Row
from routerretriever.server.follow import SharedModel, load_model, to_the_end
from routerretriever.server.metrics import Metrics
from routerretriever.server.pilot_map import PilotMap
from routerretriever.server.problems import ApiError
from routerretriever.server.settings import Settings
from routerretriever.storage.atomic import append_line

LOG = logging.getLogger("routerretriever.server")
_CHARS_PER_TOKEN = 4
_ROUTED_COST = 200  # what a forward pass costs besides its tokens, in tokens


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One text's vector (d,), what encoded it, and how many tokens were read.

    ``route_embedding`` (1, d_route) and ``policy`` are what a query was routed by.
    """

    vector: Vectors
    expert: str
    tokens: int
    route_embedding: torch.Tensor | None = None
    policy: RoutingPolicy | None = None


class Engine:
    """Loads a model and an index and serves them; all methods but :meth:`load` belong to the event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics(settings.replica)
        self.ready, self.loaded_at, self.failure = False, int(time.time()), ""
        self._writing, self._noting = asyncio.Lock(), asyncio.Lock()
        self._map: tuple[RoutingPolicy, PilotMap] | None = None
        self._mapping = asyncio.Lock()

    def load(self) -> None:
        """Read model and index and encode once, so that the first client does not wait; blocks."""
        settings = self.settings
        self.model, version = load_model(settings.model, settings.device)
        self.model.eval()
        self.fingerprint = self.model.fingerprint
        self.index = None if settings.index is None else Index.open(settings.index, self.model)
        self.model.encode_routed(["warm up"])
        self.model.encode_document(["warm up"])
        self._cores = torch.get_num_threads()
        workers = settings.batching.workers or (min(4, self._cores) if self.model.device.type == "cpu" else 1)
        self.batcher = Batcher(self._encode, settings.batching, workers, settings.limits, self.metrics.batch)
        self.shared = SharedModel(self.model, settings.model, version, self.batcher.change, self.metrics.forget)
        gc.collect()
        gc.freeze()  # what is loaded now stays: collections need not look through it again
        self.metrics.waiting.set_function(lambda: self.batcher.waiting)
        self.ready = True

    def close(self) -> None:
        """Finish what was accepted; blocks."""
        if self.ready:
            self.ready = False
            self.batcher.close()

    # -- encoding, in the batcher's threads --------------------------------------------------------

    def _encode(self, rows: Sequence[Row], parallel: int) -> Sequence[Any]:
        torch.set_num_threads(max(1, self._cores // parallel))  # of this thread
        results: list[Any] = [None] * len(rows)
        for kind, encode in (("query", self._encode_queries), ("document", self._encode_documents)):
            members = [number for number, row in enumerate(rows) if row.kind == kind]
            for group in by_length(members, lambda number: rows[number].cost):
                for number, result in zip(group, encode([rows[number] for number in group]), strict=True):
                    results[number] = result
        return results

    def _encode_queries(self, rows: Sequence[Row]) -> Sequence[Any]:
        known = self.model.state.candidates
        unknown = {row.expert for row in rows if row.expert is not None and row.expert not in known}
        if unknown:  # removed after the request was looked at
            kept = [row for row in rows if row.expert not in unknown]
            found = iter(self._encode_queries(kept) if kept else ())
            gone = {name: ExpertError(f"There is no expert '{name}' any more.") for name in unknown}
            return [gone[row.expert] if row.expert in gone else next(found) for row in rows]
        batch = self.model.encode_routed([row.text for row in rows], [row.expert for row in rows])
        self.metrics.routed(batch, [row.expert is not None for row in rows])
        return [
            Encoded(vector, expert, int(tokens), embedding[None], batch.policy)
            for vector, expert, tokens, embedding in zip(
                batch.vectors, batch.experts, batch.tokens, batch.route_embeddings, strict=True
            )
        ]

    def _encode_documents(self, rows: Sequence[Row]) -> Sequence[Any]:
        texts = [row.text for row in rows]
        vectors = self.model.encode_document(texts, batch_size=len(rows))
        self.metrics.documents.inc(len(rows))
        counts = self.model.encoder.token_counts(texts)
        return [Encoded(vector, BASE, tokens) for vector, tokens in zip(vectors, counts, strict=True)]

    # -- queries -----------------------------------------------------------------------------------

    async def encode(self, texts: Sequence[str], kind: str = "query", expert: str | None = None) -> list[Encoded]:
        """Encode texts together with those of other requests.

        Raises:
            ApiError: over a limit, or there is no such candidate.
            Overloaded: too much is waiting.
        """
        self.check_texts(texts)
        await self.check_candidate(expert)
        most = self.model.encoder.max_seq_length or 512
        rows = [Row(text, kind, expert, min(most, len(text) // _CHARS_PER_TOKEN + 3)) for text in texts]
        encoded = await asyncio.wrap_future(self.batcher.submit(rows))
        if self.settings.log_queries and kind == "query":
            for row, item in zip(rows, encoded, strict=True):
                LOG.info("query %r → %s", row.text, item.expert)
        return encoded

    async def search(
        self,
        queries: Sequence[str],
        k: int,
        expert: str | None,
        where: Condition | None,
        exact: bool,
        mode: Mode = "vector",
    ) -> list[tuple[str | None, list[Hit]]]:
        """Encode queries, unless words alone are searched, and search with each; answers what encoded it, and hits."""
        index = self.opened_index()
        experts: list[str | None] = [None] * len(queries)
        vectors = None
        if mode == "text":
            self.check_texts(queries)
        else:
            encoded = await self.encode(queries, expert=expert)
            experts, vectors = [item.expert for item in encoded], np.stack([item.vector for item in encoded])
        with self.metrics.stages.labels("search").time():
            hits = await asyncio.to_thread(
                index.search_many, queries, k, vectors=vectors, experts=experts, where=where, exact=exact, mode=mode
            )
        return list(zip(experts, hits, strict=True))

    async def route(self, queries: Sequence[str], pilots: int) -> list[tuple[Route, tuple[float, float] | None]]:
        """Where queries go and why, and their places on the map if it was drawn."""
        self.model.state.required_policy()
        encoded = await self.encode(queries)
        policy = encoded[0].policy
        if policy is None:  # a change came between
            policy = self.model.state.required_policy()
        embeddings = torch.cat([item.route_embedding for item in encoded if item.route_embedding is not None])
        with self.metrics.stages.labels("route").time():
            routes = await asyncio.to_thread(explain_routes, policy, queries, embeddings, pilots)
        drawn = self._map
        places = drawn[1].place(embeddings) if drawn is not None and drawn[0] is policy else [None] * len(routes)
        return list(zip(routes, places, strict=True))

    async def pilot_map(self) -> PilotMap:
        """The map of the present library, drawn when it is first asked for."""
        policy = self.model.state.required_policy()
        async with self._mapping:
            if self._map is None or self._map[0] is not policy:
                self._map = policy, await asyncio.to_thread(PilotMap.draw, policy)
            return self._map[1]

    async def note_feedback(self, line: bytes) -> None:
        """Append a line of feedback to the log.

        Raises:
            ApiError: there is no log, or it is full.
            StorageError: it cannot be written; it is as it was.
        """
        path, most = self.settings.feedback_log, self.settings.limits.feedback_bytes
        if path is None:
            message = "This server keeps no feedback. Start it with --feedback-log FILE."
            raise ApiError(400, message, code="no_feedback_log")
        async with self._noting:
            if not await asyncio.to_thread(append_line, path, line, most):
                message = f"The feedback log has reached its limit of {most} bytes. Its operator must move it away."
                raise ApiError(503, message, code="feedback_full", retry_after=3600)

    # -- documents ---------------------------------------------------------------------------------

    async def upsert(self, documents: Sequence[Document], collection: str) -> tuple[int, int]:
        """Encode and store documents; answers how many were written and how many there are."""
        index = self.opened_index()
        encoded = await self.encode([document.content for document in documents], "document")
        vectors = np.stack([item.vector for item in encoded])

        async def store() -> tuple[int, int]:
            async with self._writing:
                written = await asyncio.to_thread(
                    index.upsert, documents, collection=collection, encode=lambda texts: vectors
                )
                return written, await asyncio.to_thread(len, index)

        return await to_the_end(store())

    async def delete(self, ids: Sequence[str], collection: str) -> tuple[int, int]:
        """Delete documents; answers how many were there and how many there are."""
        index = self.opened_index()

        async def remove() -> tuple[int, int]:
            async with self._writing:
                deleted = await asyncio.to_thread(index.delete, ids, collection=collection)
                return deleted, await asyncio.to_thread(len, index)

        return await to_the_end(remove())

    # -- experts -----------------------------------------------------------------------------------

    async def add_expert(
        self, name: str, files: Mapping[str, bytes], gains: Mapping[str, Any] | None, trust_base: bool
    ) -> None:
        """Check an uploaded adapter, add it between batches, and save the model."""
        adapter = await asyncio.to_thread(self._read_upload, files, trust_base)

        async def add() -> None:
            async with self.shared.locked() as change:
                if name in self.model.experts:
                    raise ApiError(409, f"The model already has an expert '{name}'. Remove it first.", param="name")
                await change(lambda: self._add(name, adapter, gains))

        await to_the_end(add())

    def _read_upload(self, files: Mapping[str, bytes], trust_base: bool) -> Adapter:
        folder = Path(tempfile.mkdtemp(prefix="routerretriever-"))
        try:
            for file_name, content in files.items():  # names are ours, never a client's
                (folder / file_name).write_bytes(content)
            return self.model.read_adapter(folder, trust_base=trust_base)
        except ExpertError as error:
            raise ExpertError(str(error).replace(f"{folder}/", "").replace(str(folder), "the upload")) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _add(self, name: str, adapter: Adapter, gains: Mapping[str, Any] | None) -> None:
        self.model.add_expert(name, adapter, ExpertInfo())
        if gains:
            self.model.set_gains(name, gains)

    async def remove_expert(self, name: str) -> None:
        """Remove an expert between batches, and save the model."""

        async def remove() -> None:
            async with self.shared.locked() as change:
                if name not in self.model.experts:
                    raise ApiError(404, f"There is no expert '{name}'.", param="name", code="expert_not_found")
                await change(lambda: self.model.remove_expert(name))
                self.metrics.forget(name)

        await to_the_end(remove())

    # -- checks ------------------------------------------------------------------------------------

    def opened_index(self) -> Index:
        """The index.

        Raises:
            ApiError: the server was started without one.
        """
        if self.index is None:
            raise ApiError(400, "This server has no index. Start it with --index INDEX to search.", code="no_index")
        return self.index

    async def check_candidate(self, expert: str | None) -> None:
        """Refuse a candidate that does not exist, not even where another process has just saved it."""
        if expert is not None and expert not in self.model.state.candidates:
            await self.shared.follow()
        if expert is not None and expert not in self.model.state.candidates:
            known = ", ".join(("routed", *self.model.state.candidates))
            raise ApiError(
                404, f"There is no model '{expert}'. Choose one of: {known}.", param="model", code="model_not_found"
            )

    def check_texts(self, texts: Sequence[str]) -> None:
        """Refuse too many or too long texts."""
        limits = self.settings.limits
        if len(texts) > limits.inputs:
            raise ApiError(413, f"{len(texts)} texts are over the limit of {limits.inputs}. Send fewer at once.")
        longest = max(map(len, texts))
        if longest > limits.text_chars:
            raise ApiError(413, f"A text of {longest} characters is over the limit of {limits.text_chars}.")


def by_length(rows: Sequence[int], cost: Callable[[int], int]) -> list[list[int]]:
    """Rows in groups of like length, where the padding saved is worth another forward pass."""
    ordered = sorted(rows, key=cost)
    groups: list[list[int]] = []

    def divide(part: list[int]) -> None:
        whole = len(part) * cost(part[-1])
        cuts = {at: at * cost(part[at - 1]) + (len(part) - at) * cost(part[-1]) for at in range(1, len(part))}
        best = min(cuts, key=cuts.__getitem__, default=0)
        if best == 0 or cuts[best] + _ROUTED_COST >= whole:
            groups.append(part)
            return
        divide(part[:best])
        divide(part[best:])

    if ordered:
        divide(ordered)
    return groups
