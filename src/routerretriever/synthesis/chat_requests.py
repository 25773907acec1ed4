"""Chat requests for queries, and the tokens that they may take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from string import Template
from typing import Any

from routerretriever.errors import SynthesisError
from routerretriever.synthesis.config import LlmConfig
from routerretriever.synthesis.passages import Passage
from routerretriever.synthesis.prompts import default_prompt

_BOUNDS = ("max_tokens", "max_completion_tokens")


def chat_request(config: LlmConfig, passage: Passage, count: int) -> dict[str, Any]:
    """Return the body of the request for ``count`` queries of a passage."""
    template = Template(config.prompt or default_prompt())
    messages = []
    for text, queries in config.examples:
        question = template.safe_substitute(title="", text=text, count=len(queries))
        messages.append({"role": "user", "content": question})
        answer = json.dumps(queries, ensure_ascii=False)
        messages.append({"role": "assistant", "content": answer})
    question = template.safe_substitute(title=passage.title, text=passage.text, count=count)
    messages.append({"role": "user", "content": question})

    body = {
        "model": config.model,
        "messages": messages,
        "temperature": config.temperature,
        "max_tokens": config.answer_tokens,
        **config.extra,
    }
    return {name: value for name, value in body.items() if value is not None}


def most_tokens(config: LlmConfig, body: Mapping[str, Any]) -> tuple[int, int]:
    """Return the most tokens that a request may read and write.

    What it reads is estimated, at three characters a token.

    Raises:
        SynthesisError: a limit needs a bound on the answer, and there is none.
    """
    bounds = [body[name] for name in _BOUNDS if name in body]
    answers = body.get("n", 1)
    if any(type(number) is not int or number < 1 for number in (*bounds, answers)):
        raise SynthesisError(
            "max_tokens, max_completion_tokens and n are whole numbers of at least 1. Change them in --body (extra)."
        )
    limits = config.limits
    if not bounds and (limits.tokens is not None or limits.cost is not None):
        raise SynthesisError(
            "A limit of tokens or cost needs a bound on every answer: leave max_tokens in "
            "the request, or put max_completion_tokens in its place (--body, extra)."
        )
    # More than any language needs that is written in letters; other signs are six
    # characters each in JSON.
    read = len(json.dumps(body["messages"])) // 3 + 1
    return read, answers * max(bounds, default=config.answer_tokens)
