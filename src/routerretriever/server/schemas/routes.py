"""Requests and answers about routes, and about the map of pilots."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from routerretriever.server.schemas.common import QueriesRequest, null_is


class RouteRequest(QueriesRequest):
    """One query, or several."""

    pilots: Annotated[int, null_is(5, int)] = Field(
        5, ge=0, le=50, description="Show this many of the nearest pilots.", examples=[5]
    )


class PilotEntry(BaseModel):
    """A pilot near the query."""

    collection: str = Field(examples=["nl2bash"])
    example: str = Field(examples=["extract a tar archive"])
    similarity: float = Field(examples=[0.82])
    gains: dict[str, float] = Field(
        description="Measured gains; empty for a training query.", examples=[{"nl2bash": 0.3}]
    )


class RouteEntry(BaseModel):
    """The decision for one query, explained."""

    query: str = Field(examples=["how do I untar a directory"])
    expert: str = Field(examples=["nl2bash"])
    adapter_weight: float = Field(
        description="Weight of the expert's LoRA delta, from 0 to 1.", examples=[1.0]
    )
    gains: dict[str, float] = Field(
        description="Predicted gain of every candidate, in nDCG@10 over base.",
        examples=[{"base": 0.0, "nl2bash": 0.17}],
    )
    in_domain_score: float = Field(
        description="Closeness to the pilots; 0 is the average of in-domain queries.", examples=[0.4]
    )
    abstained: bool = Field(
        description="The query is out of domain, so the fallback was chosen.", examples=[False]
    )
    reason: str = Field(examples=["nl2bash is predicted to gain +17.0 nDCG@10 points over the base"])
    vector_weight: float = Field(
        description="Weight of the vectors beside the words in a hybrid search, from 0 to 1.", examples=[0.95]
    )
    words_reason: str = Field(
        description="Why words have the rest of the weight.",
        examples=["words gain +2.0 nDCG@10 points on held-out queries of 'nl2bash'"],
    )
    pilots: list[PilotEntry]
    position: tuple[float, float] | None = Field(
        description="Place on the map of `/v1/map`; null until the map was drawn.", examples=[[0.2, -0.7]]
    )


class RouteAnswer(BaseModel):
    """Routes in the order of the queries."""

    routes: list[RouteEntry]


class MapPoint(BaseModel):
    """A pilot or training query on the map."""

    x: float = Field(examples=[0.2])
    y: float = Field(examples=[-0.7])
    example: str = Field(examples=["extract a tar archive"])
    collection: str = Field(examples=["nl2bash"])
    expert: str = Field(
        description="The candidate with the highest score at this point.", examples=["nl2bash"]
    )
    gain: float = Field(description="Its score; see `scores`.", examples=[0.17])
    measured: bool = Field(description="A pilot with measured gains, or a training query.", examples=[True])


class MapAnswer(BaseModel):
    """Pilots and training queries in two dimensions, within -1..1."""

    points: list[MapPoint]
    scores: Literal["gain", "similarity"] = Field(
        description="What `gain` is: nDCG@10 over base, or a similarity under the paper's rules.",
        examples=["gain"],
    )
