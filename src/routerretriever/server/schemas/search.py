"""Requests and answers of a search."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from routerretriever.data.text import HALF_CHARACTER, is_text
from routerretriever.index.search import Mode
from routerretriever.server.schemas.common import Name, QueriesRequest, null_is


def _storable(condition: dict[str, Any]) -> dict[str, Any]:
    if not is_text(json.dumps(condition, ensure_ascii=False)):
        raise ValueError(HALF_CHARACTER)
    return condition


class SearchRequest(QueriesRequest):
    """One query, or several."""

    k: Annotated[int, null_is(10, int)] = Field(
        10, ge=1, le=1000, description="At most this many results for each query.", examples=[10]
    )
    expert: Name | None = Field(
        None,
        description="Use this candidate instead of routing: `base`, `merged` or an expert; null routes.",
        examples=["nl2bash"],
    )
    filter: Annotated[dict[str, Any], AfterValidator(_storable)] | None = Field(
        None,
        description="Conditions on `id`, `collection`, `title`, `text` and metadata: `{field: value}`, "
        "`{field: {op: value}}` with eq, ne, lt, lte, gt, gte, in, exists, and `and`, `or`, `not` of such.",
        examples=[{"collection": "nl2bash"}],
    )
    exact: Annotated[bool, null_is(False, bool)] = Field(
        False, description="Scan all vectors even if there is an approximate index.", examples=[False]
    )
    mode: Mode | None = Field(
        None,
        description="`hybrid` ranks by similarity and by the words of title and text (BM25), `vector` by "
        "similarity alone, `text` by words alone, without the model. Null takes `hybrid`, or `vector` for an "
        "index without a text index.",
        examples=["vector"],
    )
    rerank: Annotated[bool, null_is(False, bool)] = Field(
        False,
        description="Order the best fifty by the cross-encoder that the server was started with.",
        examples=[False],
    )
    min_relevance: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Leave out documents that are less probably relevant than this.",
        examples=[0.05],
    )
    passages: Annotated[bool, null_is(False, bool)] = Field(
        False,
        description="Return passages, of which several may be of one document, instead of documents by "
        "their best passage.",
        examples=[False],
    )


class PassageEntry(BaseModel):
    """Where a passage is in its document."""

    number: int = Field(description="Of the passage, counted from 0.", examples=[3])
    start: int = Field(description="First character in the document's text, counted from 0.", examples=[3330])
    stop: int = Field(description="Character after the last.", examples=[4472])
    heading: str = Field(
        description="Headings above it, outermost first, joined by ` › `; empty if there are none.",
        examples=["Install › Linux"],
    )
    page: int | None = Field(
        description="Page of the file that it begins on, counted from 1; null where there are no pages.",
        examples=[7],
    )


class HitEntry(BaseModel):
    """A document that was found, by its best passage."""

    id: str = Field(examples=["d17"])
    score: float = Field(
        description="Similarity of query and document; BM25 in mode `text`, both fused in mode `hybrid`.",
        examples=[0.71],
    )
    title: str = Field(examples=["tar"])
    text: str = Field(
        description="Of the document, or of its best passage if the base does not read it whole.",
        examples=["tar -xf archive.tar -C directory"],
    )
    collection: str = Field(examples=["nl2bash"])
    metadata: dict[str, Any] = Field(examples=[{"year": 2024}])
    relevance: float | None = Field(
        description="Probability that a judge would call the document relevant; null if nothing was measured.",
        examples=[0.64],
    )
    passage: PassageEntry | None = Field(
        description="Where the text is; null if it is the whole document.", examples=[None]
    )


class SearchResult(BaseModel):
    """What one query found."""

    query: str = Field(examples=["how do I untar a directory"])
    expert: str | None = Field(
        description="What encoded the query; null in mode `text`.", examples=["nl2bash"]
    )
    mode: Mode = Field(description="How the index was searched.", examples=["hybrid"])
    vector_weight: float | None = Field(
        description="Weight of the vectors beside the words, 0 to 1; null except in mode `hybrid`.",
        examples=[0.95],
    )
    nothing_relevant: bool | None = Field(
        description="The first hit is less probably relevant than that of 95% of the judged queries with an "
        "answer; null if nothing was measured.",
        examples=[False],
    )
    hits: list[HitEntry]


class SearchAnswer(BaseModel):
    """Results in the order of the queries."""

    fingerprint: str = Field(
        description="Identifies base and document prompt, whatever the experts; feedback that names "
        "another is refused.",
        examples=["78e5d4f96b08ee573cbdd67dc89276cf"],
    )
    results: list[SearchResult]
