"""Queries from a language model behind any OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from routerretriever.endpoint import FaultError
from routerretriever.errors import PausedError, SynthesisError
from routerretriever.progress import Progress, Silent, Task
from routerretriever.synthesis.answers import queries_in
from routerretriever.synthesis.budget import Budget, Totals
from routerretriever.synthesis.chat_requests import chat_request, most_tokens
from routerretriever.synthesis.config import LlmConfig
from routerretriever.synthesis.endpoint import Endpoint, Pace, Reply
from routerretriever.synthesis.journal import Answer, Journal, Lost
from routerretriever.synthesis.passages import Passage

FORBIDDEN = 403
REFUSALS = 20
"""An endpoint that answered, and then refuses this many passages in a row, does not refuse
them for what they say."""


def ask_llm(
    passages: Sequence[Passage],
    per_passage: int,
    journal: Journal,
    config: LlmConfig,
    progress: Progress | None = None,
) -> None:
    """Ask for queries for every passage that has no answer in the journal yet.

    Raises:
        PausedError: a limit was reached, or requests failed; answers so far are in the
            journal.
        SynthesisError: the endpoint refuses every request.
    """
    missing = [passage for passage in passages if passage.key not in journal.answers]
    if not missing:
        return
    with (progress or Silent()).task("ask for queries", len(passages)) as task:
        task.advance(len(passages) - len(missing))
        _complete(_Run(missing, per_passage, journal=journal, config=config, task=task))


def _complete(run: _Run) -> None:
    """Run to the end, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(run.everything())
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(run.everything())).result()


@dataclass(slots=True)
class _Outcomes:
    """What became of the passages so far.

    Attributes:
        few: this many failures in a row mean that the endpoint is gone.
        failed, refused: passages that another attempt may help, and those that none will.
        last: what the last failure said.
    """

    few: int
    answered: int = 0
    failed: int = 0
    refused: int = 0
    failures_in_a_row: int = 0
    last: str = ""

    def add_answer(self) -> None:
        self.answered += 1
        self.failures_in_a_row = 0

    def add_fault(self, fault: FaultError) -> None:
        self.refused += fault.final
        self.failed += not fault.final
        self.failures_in_a_row += 1
        self.last = str(fault)

    def refuses_all(self, fault: FaultError) -> bool:
        """Return whether the key may not ask at all.

        Gateways answer 403 for such a key, and for a passage that they do not let through.
        """
        only_refused = not self.answered and not self.failed
        return fault.status == FORBIDDEN and only_refused and self.refused >= self.few

    def is_gone(self, fault: FaultError) -> bool:
        """Return whether to stop: one passage that cannot be answered must not stop others."""
        patience = REFUSALS if fault.final and self.answered else self.few
        return self.failures_in_a_row >= patience

    def summary(self) -> str:
        """Return what failed, for an error."""
        counts = []
        if self.failed:
            counts.append(f"{self.failed} requests failed")
        if self.refused:
            counts.append(f"{self.refused} passages were refused")
        return " and ".join(counts)


class _Run:
    """Workers that share one list of passages, one budget and one journal."""

    def __init__(
        self,
        passages: Sequence[Passage],
        count: int,
        journal: Journal,
        config: LlmConfig,
        task: Task,
    ) -> None:
        self._passages = iter(passages)
        self._workers = min(config.concurrency, len(passages))
        self._count = count
        self._journal = journal
        self._config = config
        self._task = task
        self._outcomes = _Outcomes(few=max(3, config.concurrency))
        self._stopped = False
        self._limited = False
        self._hopeless = False
        self._paused: PausedError | None = None

    async def everything(self) -> None:
        """Ask for all passages; say at the end what is missing."""
        config = self._config
        paid = self._journal.paid
        tokens_in = sum(item.tokens_in for item in paid)
        tokens_out = sum(item.tokens_out for item in paid)
        self._budget = Budget(config.limits, Totals(len(paid), tokens_in, tokens_out))
        endpoint = Endpoint(
            config.endpoint,
            timeout=config.timeout,
            backoff=config.backoff,
            pace=Pace(config.rate),
        )
        async with endpoint:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._workers):
                        group.create_task(self._work(endpoint))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
        self._conclude()

    async def _work(self, endpoint: Endpoint) -> None:
        for passage in self._passages:
            if self._stopped or self._limited:
                return
            try:
                await self._ask(endpoint, passage)
            except FaultError as fault:
                self._count_fault(endpoint, fault)
            except PausedError as error:
                # Requests under way may still be answered, and are paid for.
                self._paused = error
                self._stopped = True

    async def _ask(self, endpoint: Endpoint, passage: Passage) -> None:
        """Ask for one passage until it is answered, each attempt within the limits."""
        body = chat_request(self._config, passage, self._count)
        most = most_tokens(self._config, body)
        for attempt in range(self._config.retries + 1):
            if not await self._budget.reserve(*most):
                self._limited = True
                return
            fault = await self._try(endpoint, passage, body, most)
            if fault is None:
                return
            if fault.final or attempt == self._config.retries:
                raise fault
            await endpoint.rest(fault, attempt)

    async def _try(
        self,
        endpoint: Endpoint,
        passage: Passage,
        body: Mapping[str, Any],
        most: tuple[int, int],
    ) -> FaultError | None:
        """Send a request, and account for its possible cost before anything else is asked."""
        spent: tuple[int, int] | None = None
        problem = ""
        try:
            await endpoint.turn()
            spent, problem = most, "interrupted"
            reply = await endpoint.ask(body)
            answer = _answer(passage, reply, self._count, most[0])
            self._journal.append([answer])
            spent, problem = (answer.tokens_in, answer.tokens_out), ""
        except FaultError as fault:
            spent, problem = _billed(fault, most), str(fault)
            return fault
        except SynthesisError:
            self._hopeless = True
            raise
        finally:
            if self._hopeless:  # nothing that is under way will be answered, nor billed
                spent = None
            if spent is not None and problem:
                lost = Lost(passage.key, tokens_in=spent[0], tokens_out=spent[1], problem=problem)
                self._journal.lose(lost)
            await self._budget.settle(*most, spent)
        self._outcomes.add_answer()
        self._task.advance()
        return None

    def _count_fault(self, endpoint: Endpoint, fault: FaultError) -> None:
        self._outcomes.add_fault(fault)
        if self._outcomes.refuses_all(fault):
            self._hopeless = True
            raise endpoint.hopeless(self._outcomes.last)
        self._stopped |= self._outcomes.is_gone(fault)

    def _conclude(self) -> None:
        kept = f"{len(self._journal.answers)} answers are in {self._journal.path}"
        finish = "or add --finish (finish=True) to make the collection of these answers."
        if self._paused is not None:
            raise self._paused
        if self._limited:
            raise PausedError(f"The limit is reached; {kept}. Rerun with a higher limit to go on, {finish}")
        failures = self._outcomes.summary()
        if self._stopped:
            failures = "The endpoint does not answer"
        if failures:
            raise PausedError(
                f"{failures} ({self._outcomes.last}); {kept}. Rerun the same command to go on, {finish}"
            )


def _billed(fault: FaultError, most: tuple[int, int]) -> tuple[int, int] | None:
    """Return what a failed request may have cost: what the server says, else all reserved."""
    if fault.billed is None:
        return None
    read, written = fault.billed
    return most[0] if read is None else read, most[1] if written is None else written


def _answer(passage: Passage, reply: Reply, count: int, guess_in: int) -> Answer:
    """Return what was paid for, usable or not: asking again would be paying again."""
    queries = queries_in(reply.text)[:count]
    problem = ""
    if not queries:
        problem = "no queries in the answer"
    elif len(queries) < count:
        problem = "truncated" if reply.truncated else "too few queries"

    tokens_in, tokens_out = reply.tokens_in, reply.tokens_out
    if tokens_in is None:
        tokens_in = guess_in
    if tokens_out is None:
        tokens_out = len(reply.text) // 3 + 1
    return Answer(
        key=passage.key,
        queries=tuple(queries),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        problem=problem,
    )
