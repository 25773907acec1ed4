"""Queries from a language model behind any OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from routerretriever.data.text import stable_hash
from routerretriever.errors import PausedError, SynthesisError
from routerretriever.progress import Progress, Silent, Task
from routerretriever.synthesis.endpoint import Endpoint, FaultError, Pace, Reply
from routerretriever.synthesis.journal import Answer, Journal, Lost
from routerretriever.synthesis.limits import Budget, Limits
from routerretriever.synthesis.passages import Passage

_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):])\s+")
_FENCE = re.compile(r"^```\w*\s*|\s*```$")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


FORBIDDEN = 403
REFUSALS = 20
"""An endpoint that answered, and then refuses so many passages in a row, does not refuse them for what they say."""


@dataclass(frozen=True, slots=True)
class LlmConfig:
    """How a language model is asked.

    Attributes:
        endpoint: address that ends in ``/v1``; the key, if it wants one, is in ``OPENAI_API_KEY``.
        model: the name the endpoint knows it by.
        prompt: a template with ``$text``, and if wanted ``$title`` and ``$count``; default :func:`default_prompt`.
        examples: passages and their queries, shown to the model as a conversation.
        concurrency: requests under way at once.
        rate: requests a minute; ``None`` for as many as are answered.
        timeout: seconds for one request, all of it.
        retries: further tries of a request that failed.
        backoff: seconds before the first of them, doubled for each further one, times a random number below 1.
        temperature, answer_tokens: of the model.
        limits: what may be spent.
        extra: merged into every request; ``None`` takes a field out. With limits of tokens or cost an answer needs a
            bound: ``max_tokens`` or ``max_completion_tokens``.
    """

    endpoint: str
    model: str
    prompt: str = ""
    examples: tuple[tuple[str, tuple[str, ...]], ...] = ()
    concurrency: int = 4
    rate: float | None = None
    timeout: float = 60.0
    retries: int = 5
    backoff: float = 1.0
    temperature: float = 0.8
    answer_tokens: int = 400
    limits: Limits = field(default_factory=Limits)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """What decides the answers; the address does not, and may hold a secret."""
        asked = json.dumps([self.prompt or default_prompt(), self.examples, dict(self.extra)])
        return {
            "model": self.model,
            "prompt": stable_hash(asked),
            "temperature": self.temperature,
            "answer_tokens": self.answer_tokens,
        }

    def body(self, passage: Passage, count: int) -> dict[str, Any]:
        """The request for one passage."""
        messages = []
        for text, queries in self.examples:
            messages.append({"role": "user", "content": self._filled("", text, len(queries))})
            messages.append({"role": "assistant", "content": json.dumps(queries, ensure_ascii=False)})
        messages.append({"role": "user", "content": self._filled(passage.title, passage.text, count)})
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": self.temperature,
            "max_tokens": self.answer_tokens,
            **self.extra,
        }
        return {key: value for key, value in body.items() if value is not None}

    def most(self, body: Mapping[str, Any]) -> tuple[int, int]:
        """Tokens that a request may read and write at most; what it reads is estimated at three characters a token.

        Raises:
            SynthesisError: a limit needs a bound on the answer, and there is none.
        """
        bounds = [body[key] for key in ("max_tokens", "max_completion_tokens") if key in body]
        answers = body.get("n", 1)
        if any(type(number) is not int or number < 1 for number in (*bounds, answers)):
            raise SynthesisError("max_tokens, max_completion_tokens and n are whole numbers of at least 1.")
        if not bounds and (self.limits.tokens is not None or self.limits.cost is not None):
            raise SynthesisError(
                "A limit of tokens or cost needs a bound on every answer: leave max_tokens in the request, or put "
                "max_completion_tokens in its place (--body, extra)."
            )
        # More than any language needs that is written in letters; other signs are six characters each in JSON.
        read = len(json.dumps(body["messages"])) // 3 + 1
        return read, answers * max(bounds, default=self.answer_tokens)

    def _filled(self, title: str, text: str, count: int) -> str:
        return Template(self.prompt or default_prompt()).safe_substitute(title=title, text=text, count=count)


def default_prompt() -> str:
    """The prompt that is used unless another is given."""
    return (files("routerretriever.synthesis") / "default_prompt.txt").read_text(encoding="utf-8")


def read_prompt(path: Path) -> str:
    """A prompt file.

    Raises:
        SynthesisError: it cannot be read, or has no place for the passage.
    """
    try:
        prompt = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SynthesisError(f"The prompt {path} cannot be read ({error}).") from error
    if "$text" not in prompt and "${text}" not in prompt:
        raise SynthesisError(f"The prompt {path} has no $text, where the passage goes. $title and $count are optional.")
    return prompt


def read_examples(path: Path) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """A JSONL file of ``text`` and ``queries``.

    Raises:
        SynthesisError: names the line that cannot be used.
    """
    examples = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SynthesisError(f"The examples {path} cannot be read ({error}).") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text, queries = record["text"], record["queries"]
        except (ValueError, KeyError, TypeError):
            text, queries = None, None
        if not isinstance(text, str) or not isinstance(queries, list) or not all(isinstance(q, str) for q in queries):
            raise SynthesisError(f'{path}, line {number}: expected {{"text": "…", "queries": ["…", "…"]}}.')
        examples.append((text, tuple(queries)))
    return tuple(examples)


def ask_llm(
    passages: Sequence[Passage],
    per_passage: int,
    journal: Journal,
    config: LlmConfig,
    progress: Progress | None = None,
) -> None:
    """Ask for queries for every passage that has no answer in the journal yet.

    Raises:
        PausedError: a limit was reached, or requests failed; answers so far are in the journal.
        SynthesisError: the endpoint refuses every request.
    """
    todo = [passage for passage in passages if passage.key not in journal.answers]
    if not todo:
        return
    with (progress or Silent()).task("ask for queries", len(passages)) as task:
        task.advance(len(passages) - len(todo))
        _run(_Run(todo, per_passage, journal, config, task))


def _run(run: _Run) -> None:
    """Run a coroutine to its end, also where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(run.everything())
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(run.everything())).result()


class _Run:
    """Workers that share one list of passages, one budget and one journal."""

    def __init__(
        self, passages: Sequence[Passage], count: int, journal: Journal, config: LlmConfig, task: Task
    ) -> None:
        self._passages: Iterator[Passage] = iter(passages)
        self._total, self._count, self._journal, self._config, self._task = len(passages), count, journal, config, task
        self._failed, self._refused, self._answered, self._in_a_row = 0, 0, 0, 0
        self._few = max(3, config.concurrency)
        self._last = ""
        self._stopped = False
        self._limited = False
        self._hopeless = False
        self._paused: PausedError | None = None

    async def everything(self) -> None:
        """Ask for all; say at the end what is missing."""
        config = self._config
        paid = self._journal.paid
        self._budget = Budget(config.limits, len(paid), sum(a.tokens_in for a in paid), sum(a.tokens_out for a in paid))
        endpoint = Endpoint(config.endpoint, timeout=config.timeout, backoff=config.backoff, pace=Pace(config.rate))
        async with endpoint:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(config.concurrency, self._total)):
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
                self._fault(endpoint, fault)
            except PausedError as error:  # requests under way may still be answered, and are paid for
                self._paused, self._stopped = error, True

    async def _ask(self, endpoint: Endpoint, passage: Passage) -> None:
        """Ask for one passage until it is answered, each try within the limits."""
        body = self._config.body(passage, self._count)
        most = self._config.most(body)
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
        self, endpoint: Endpoint, passage: Passage, body: Mapping[str, Any], most: tuple[int, int]
    ) -> FaultError | None:
        """Send a request, and account for what it cost, or may have cost, before anything else is asked."""
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
                self._journal.lose(Lost(passage.key, *spent, problem))
            await self._budget.settle(*most, spent)
        self._answered += 1
        self._in_a_row = 0
        self._task.advance()
        return None

    def _fault(self, endpoint: Endpoint, fault: FaultError) -> None:
        self._refused += fault.final
        self._failed += not fault.final
        self._in_a_row += 1
        self._last = str(fault)
        # One passage that the server cannot bear must not stop the others; a server that is gone must. Gateways say 403
        # of a key that may not ask at all, and of a passage that they will not let through.
        if fault.status == FORBIDDEN and not self._answered and self._refused >= self._few and not self._failed:
            self._hopeless = True
            raise endpoint.hopeless(self._last)
        self._stopped |= self._in_a_row >= (REFUSALS if fault.final and self._answered else self._few)

    def _conclude(self) -> None:
        there = f"{len(self._journal.answers)} answers are in {self._journal.path}"
        go_on = "or add --finish (finish=True) to make the collection of what is there."
        if self._paused is not None:
            raise self._paused
        if self._limited:
            raise PausedError(f"The limit is reached; {there}. Run again with a higher limit to go on, {go_on}")
        if self._stopped or self._failed or self._refused:
            failed = [f"{self._failed} requests failed"] if self._failed else []
            refused = [f"{self._refused} passages were refused"] if self._refused else []
            what = "The endpoint does not answer" if self._stopped else " and ".join(failed + refused)
            raise PausedError(f"{what} ({self._last}); {there}. Run the same command again to go on, {go_on}")


def _billed(fault: FaultError, most: tuple[int, int]) -> tuple[int, int] | None:
    """What a failed request may have cost: what the server says, else all that was reserved."""
    if fault.billed is None:
        return None
    read, written = fault.billed
    return most[0] if read is None else read, most[1] if written is None else written


def _answer(passage: Passage, reply: Reply, count: int, guess_in: int) -> Answer:
    """What was paid for counts as answered, usable or not: asking again would be paying again."""
    queries = queries_in(reply.text)[:count]
    problem = "" if len(queries) == count else "truncated" if reply.truncated else "too few queries"
    if not queries:
        problem = "no queries in the answer"
    tokens_in = guess_in if reply.tokens_in is None else reply.tokens_in
    tokens_out = len(reply.text) // 3 + 1 if reply.tokens_out is None else reply.tokens_out
    return Answer(passage.key, tuple(queries), tokens_in, tokens_out, problem)


def queries_in(text: str) -> list[str]:
    """The queries of an answer: JSON, what is whole of JSON that was cut off, or plain lines."""
    body = _FENCE.sub("", text.strip())
    start = min((at for at in (body.find("["), body.find("{")) if at >= 0), default=-1)
    if start >= 0:
        try:
            found = _strings(json.JSONDecoder().raw_decode(body[start:])[0])
        except ValueError:
            opened = body.find("[", start)
            found = [] if opened < 0 else [_unescaped(part) for part in _STRING.findall(body[opened:])]
        if found or body[start:].lstrip("[{ \n").startswith(('"', "]", "}")):
            return _clean(found)
    lines = body.splitlines()
    marked = [line for line in lines if _LIST_MARK.match(line)]
    # Prose around a list is not a query; where nothing is marked, only questions are taken.
    return _clean(
        [_LIST_MARK.sub("", line) for line in marked] or [line for line in lines if line.rstrip().endswith("?")]
    )


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    return []


def _unescaped(part: str) -> str:
    try:
        return str(json.loads(f'"{part}"'))
    except ValueError:
        return ""


def _clean(found: Sequence[str]) -> list[str]:
    plain = (" ".join(text.split()) for text in found)
    unquoted = (text[1:-1] if text[:1] in ('"', "“") and text[-1:] in ('"', "”") else text for text in plain)
    return list(dict.fromkeys(text for text in unquoted if text))
