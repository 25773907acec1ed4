"""What an expert that does not answer yet would have changed."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ShadowAnswer(BaseModel):
    """Totals since the server started, in queries."""

    expert: str = Field(examples=["legal"])
    queries: int = Field(description="Routed searches that were looked at.", examples=[1200])
    routed: int = Field(description="That the expert would have encoded.", examples=[310])
    changed: int = Field(
        description="Of these, with other hits or another order among the first ten.",
        examples=[280],
    )
    first_changed: int = Field(description="Of these, with another first hit.", examples=[95])
    mean_overlap: float | None = Field(
        description="Mean share of the first ten hits that stay; null before the first.",
        examples=[0.74],
    )
    dropped: int = Field(description="Not looked at, because too many were waiting.", examples=[0])
    failed: int = Field(description="Searches whose comparison ended with an error.", examples=[0])
    unlogged: int = Field(
        description="Not in the log, because it is full or cannot be written.",
        examples=[0],
    )
