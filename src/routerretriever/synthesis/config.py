"""Settings of a synthesis; wrong ones are refused when they are made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from routerretriever.data.text import stable_hash
from routerretriever.errors import SynthesisError
from routerretriever.synthesis.methods import Method
from routerretriever.synthesis.prompts import Examples, default_prompt
from routerretriever.validation import named_errors

DOC2QUERY_MODEL = "BeIR/query-gen-msmarco-t5-base-v1"
DEPTH = 20
"""How deep the passage of a query may be found. The usual 1 keeps what the base knows already
and leaves nothing to learn; a passage beyond the first two pages of ten is rarely what its
query describes."""

_EXACT = ConfigDict(extra="forbid")
_Count = Annotated[int, Field(ge=1)]
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True, config=_EXACT)
class Limits:
    """What a language model may be asked for, in all runs together; ``None`` is no limit.

    Attributes:
        requests: those that were answered, and those that may be billed although no usable
            answer came back.
        tokens: read and written ones.
        cost: in the currency of the prices.
        price_in, price_out: of a million tokens read and written.

    Raises:
        SynthesisError: a value is wrong, or there is a cost without prices.
    """

    requests: _Count | None = None
    tokens: _Count | None = None
    cost: _Amount | None = None
    price_in: _Amount = 0.0
    price_out: _Amount = 0.0

    _named = named_errors(SynthesisError)

    def __post_init__(self) -> None:
        if self.cost is not None and not self.price_in and not self.price_out:
            raise SynthesisError(
                "A limit of cost needs prices of a million tokens: price_in and price_out (--price-in, --price-out)."
            )

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """Return what some tokens cost."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True, config=_EXACT)
class LlmConfig:
    """How a language model is asked.

    Attributes:
        endpoint: address that ends in ``/v1``; its key, if it needs one, is in
            ``OPENAI_API_KEY``.
        model: the name the endpoint knows it by.
        prompt: a template with ``$text``, and optionally ``$title`` and ``$count``; default
            :func:`~routerretriever.synthesis.prompts.default_prompt`.
        examples: passages and their queries, shown to the model as a conversation.
        concurrency: most requests under way at once.
        rate: most requests a minute; ``None`` for no limit.
        timeout: seconds for one request, all of it.
        retries: further attempts of a request that failed.
        backoff: seconds before the first of them, doubled for each further one, times a
            random number below 1.
        temperature, answer_tokens: of the model.
        limits: what may be spent.
        extra: merged into every request; ``None`` takes a field out. With limits of tokens
            or cost an answer needs a bound: ``max_tokens`` or ``max_completion_tokens``.

    Raises:
        SynthesisError: a value is wrong.
    """

    endpoint: str
    model: str
    prompt: str = ""
    examples: Examples = ()
    concurrency: _Count = 4
    rate: Annotated[float, Field(gt=0)] | None = None
    timeout: Annotated[float, Field(gt=0)] = 60.0
    retries: Annotated[int, Field(ge=0)] = 5
    backoff: _Amount = 1.0
    temperature: _Amount = 0.8
    answer_tokens: _Count = 400
    limits: Limits = field(default_factory=Limits)
    extra: Mapping[str, Any] = field(default_factory=dict)

    _named = named_errors(SynthesisError)

    def settings(self) -> dict[str, Any]:
        """Return what decides the answers; the address does not, and may hold a secret."""
        template = self.prompt or default_prompt()
        asked = json.dumps([template, self.examples, dict(self.extra)])
        return {
            "model": self.model,
            "prompt": stable_hash(asked),
            "temperature": self.temperature,
            "answer_tokens": self.answer_tokens,
        }


@dataclass(frozen=True, slots=True, kw_only=True, config=_EXACT)
class Doc2QueryConfig:
    """How a sequence-to-sequence model is asked.

    Attributes:
        model: hub id or path of a checkpoint for ``AutoModelForSeq2SeqLM``.
        batch_size: passages at once. It decides which random numbers a passage gets, so it
            must stay the same when an interrupted synthesis is continued.
        top_k, top_p: tokens are drawn from the ``top_k`` most likely ones, and of those from
            the share ``top_p`` of probability.
        read_tokens, write_tokens: at most, of a passage and of a query.
        device: torch device; default CUDA if there is one, else the CPU.

    Raises:
        SynthesisError: a value is wrong.
    """

    model: str = DOC2QUERY_MODEL
    batch_size: _Count = 16
    top_k: _Count = 25
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    read_tokens: _Count = 350
    write_tokens: _Count = 64
    device: str | None = None

    _named = named_errors(SynthesisError)

    def settings(self) -> dict[str, Any]:
        """Return what decides the answers."""
        names = ("model", "batch_size", "top_k", "top_p", "read_tokens", "write_tokens")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True, config=_EXACT)
class SynthesisConfig:
    """How queries are made.

    Attributes:
        method: one of :data:`~routerretriever.synthesis.methods.METHODS`.
        queries: about how many are made. Of a large collection they are made for a sample of
            its passages, of a small one for all of them, several for each.
        per_passage: most queries for one passage.
        k: a query is kept if its passage is among the first ``k`` results.
        seed: of everything random.
        doc2query, llm: settings of the methods of these names.

    Raises:
        SynthesisError: a value is wrong.
    """

    method: Method = "mixture"
    queries: _Count = 6000
    per_passage: _Count = 6
    k: _Count = DEPTH
    seed: int = 0
    doc2query: Doc2QueryConfig = field(default_factory=Doc2QueryConfig)
    llm: LlmConfig | None = None

    _named = named_errors(SynthesisError)

    def __post_init__(self) -> None:
        if self.method == "llm" and self.llm is None:
            raise SynthesisError(
                "To ask a language model, say where it is and its name: LlmConfig(endpoint=…, "
                "model=…) (command line: --endpoint URL --model NAME)."
            )

    def settings(self) -> dict[str, Any]:
        """Return what decides the queries that are made; neither key nor address."""
        common = {
            "method": self.method,
            "queries": self.queries,
            "per_passage": self.per_passage,
            "seed": self.seed,
        }
        if self.method == "doc2query":
            return common | self.doc2query.settings()
        if self.method == "llm" and self.llm is not None:
            return common | self.llm.settings()
        return common
