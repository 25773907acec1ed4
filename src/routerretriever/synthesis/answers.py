"""Read the queries out of what a language model answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):])\s+")
_FENCE = re.compile(r"^```\w*\s*|\s*```$")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_JSON_START = re.compile(r"[\[{]")


def queries_in(text: str) -> list[str]:
    """Return the queries of an answer.

    They may be JSON, what is whole of JSON that was cut off, or plain lines.
    """
    body = _FENCE.sub("", text.strip())
    if start := _JSON_START.search(body):
        content = body[start.start() :]
        found = _in_json(content)
        if found or content.lstrip("[{ \n").startswith(('"', "]", "}")):
            return _clean(found)
    return _clean(_in_lines(body.splitlines()))


def _in_json(content: str) -> list[str]:
    try:
        return list(_strings(json.JSONDecoder().raw_decode(content)[0]))
    except ValueError:  # cut off, or not JSON
        _, opened, rest = content.partition("[")
        return [_unescaped(part) for part in _STRING.findall(rest)] if opened else []


def _in_lines(lines: list[str]) -> list[str]:
    # Prose around a list is not a query; where nothing is marked, only questions are taken.
    if marked := [line for line in lines if _LIST_MARK.match(line)]:
        return [_LIST_MARK.sub("", line) for line in marked]
    return [line for line in lines if line.rstrip().endswith("?")]


def _strings(value: Any) -> Iterator[str]:
    """Yield all texts within a JSON value, in order."""
    if isinstance(value, str):
        yield value
        return
    items = value.values() if isinstance(value, dict) else value
    if isinstance(value, list | dict):
        for item in items:
            yield from _strings(item)


def _unescaped(part: str) -> str:
    try:
        return str(json.loads(f'"{part}"'))
    except ValueError:
        return ""


def _clean(found: Iterable[str]) -> list[str]:
    """Return the queries without quotes around them, each once."""
    queries: dict[str, None] = {}
    for text in found:
        # JSON can spell half of a surrogate pair, which nothing can store.
        query = " ".join(text.encode("utf-8", "replace").decode().split())
        if query[:1] in ('"', "“") and query[-1:] in ('"', "”"):
            query = query[1:-1]
        if query:
            queries[query] = None
    return list(queries)
