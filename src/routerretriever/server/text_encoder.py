"""Encode the texts of a request together with those of others, within the server's limits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from routerretriever.encoder.served_model import ServedModel
from routerretriever.encoder.token_ids import TokenIds
from routerretriever.routing.candidates import ROUTED
from routerretriever.server.access import Access
from routerretriever.server.answering import Answering
from routerretriever.server.batching import Batcher, Row
from routerretriever.server.batching.rows import RowKind
from routerretriever.server.encode_batch import Encoded
from routerretriever.server.problems import ApiError
from routerretriever.server.settings import Settings
from routerretriever.server.shared_model import SharedModel
from routerretriever.server.spans import Spans

LOG = logging.getLogger("routerretriever.server")
_CHARS_PER_TOKEN = 4
_SPECIAL_TOKENS = 3
_USUAL_LENGTH = 512  # tokens, for a base that reads any length


class TextEncoder:
    """Checks texts and hands them to the batcher; belongs to the event loop.

    Args:
        model: encodes.
        answering: whose candidates may be pinned.
        shared: where another process may have just saved one.
        batcher: encodes.
        settings: limits, and whether queries are logged.
        spans: note how long it took.
    """

    def __init__(
        self,
        *,
        model: ServedModel,
        answering: Answering,
        shared: SharedModel,
        batcher: Batcher,
        settings: Settings,
        spans: Spans,
    ) -> None:
        self._model = model
        self._answering = answering
        self._shared = shared
        self._batcher = batcher
        self._spans = spans
        self._limits = settings.limits
        self._log_queries = settings.log_queries

    async def queries(
        self,
        queries: Sequence[str | TokenIds],
        access: Access,
        expert: str | None = None,
    ) -> list[Encoded]:
        """Encode queries, each routed or all by one pinned candidate, within what exists for whoever asks.

        Raises:
            ApiError: over a limit, or there is no such candidate.
            Overloaded: too much is waiting.
        """
        self.check_texts(queries)
        pinned = await self.checked_candidate(expert, access)
        encoded = await self._encode(queries, "query", access, pinned)
        if self._log_queries:
            for query, item in zip(queries, encoded, strict=True):
                LOG.info("query %r → %s", query, item.expert)
        return encoded

    async def documents(self, texts: Sequence[str | TokenIds], access: Access) -> list[Encoded]:
        """Encode documents by the base; the caller has checked how many there are.

        Raises:
            ApiError: a text is too long.
            Overloaded: too much is waiting.
        """
        self.check_lengths(texts)
        return await self._encode(texts, "document", access)

    async def _encode(
        self,
        texts: Sequence[str | TokenIds],
        kind: RowKind,
        access: Access,
        expert: str | None = None,
    ) -> list[Encoded]:
        longest = self._model.max_seq_length or _USUAL_LENGTH
        rows = [
            Row(
                content=text,
                kind=kind,
                expert=expert,
                cost=min(longest, _estimated_tokens(text)),
                scope=access.scope,
                client=access.name,
            )
            for text in texts
        ]
        submitted = time.perf_counter()
        encoded: list[Encoded] = await asyncio.wrap_future(self._batcher.submit(rows))
        self._spans.encoded(submitted, encoded)
        return encoded

    async def checked_candidate(self, expert: str | None, access: Access) -> str | None:
        """Return the candidate to pin, or ``None`` to route.

        Raises:
            ApiError: for whoever asks there is no such candidate, not even one that another process has
                just saved.
        """
        if expert in (None, ROUTED):
            return None
        if expert not in self._answering.state.candidates_in(access.scope):
            await self._shared.follow()
        candidates = self._answering.state.candidates_in(access.scope)
        if expert not in candidates:
            known = ", ".join((ROUTED, *candidates))
            message = f"There is no model '{expert}'. Choose one of: {known}."
            raise ApiError(404, message, param="model", code="model_not_found")
        return expert

    def check_texts(self, texts: Sequence[str | TokenIds]) -> None:
        """Refuse too many or too long texts.

        Raises:
            ApiError: over a limit.
        """
        most = self._limits.inputs
        if len(texts) > most:
            raise ApiError(
                413,
                f"{len(texts)} texts are over the limit of {most}. Send fewer at once.",
            )
        self.check_lengths(texts)

    def check_lengths(self, texts: Sequence[str | TokenIds]) -> None:
        """Refuse too long texts.

        Raises:
            ApiError: one is over the limit.
        """
        longest = max(map(len, texts))
        most = self._limits.text_chars
        if longest > most:
            message = f"A text of {longest} characters is over the limit of {most}. Shorten it."
            raise ApiError(413, message)


def _estimated_tokens(text: str | TokenIds) -> int:
    if isinstance(text, TokenIds):
        return len(text) + _SPECIAL_TOKENS
    return len(text) // _CHARS_PER_TOKEN + _SPECIAL_TOKENS
