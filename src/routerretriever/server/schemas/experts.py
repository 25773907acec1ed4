"""Experts that are listed, added or removed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ExpertEntry(BaseModel):
    """An expert."""

    name: str = Field(examples=["nl2bash"])
    kind: Literal["lora", "map", "both"] = Field(
        description="lora changes layers of the base, map its finished vector, both does both.",
        examples=["map"],
    )
    collection: str = Field(description="What it was trained on; empty if imported.", examples=["nl2bash"])
    queries: int = Field(description="Training queries.", examples=[6714])
    held_out: int = Field(description="Held-out queries it was measured on; 0 if unknown.", examples=[500])
    base_ndcg: float = Field(description="nDCG@10 of the base on them.", examples=[0.537])
    expert_ndcg: float = Field(description="nDCG@10 of the expert on them.", examples=[0.7])
    gain: float = Field(examples=[0.163])
    p_value: float | None = Field(
        description="Two-sided paired randomisation test of the gain; null if unknown.", examples=[0.0001]
    )
    selection: str = Field(
        description="split: other held-out queries chose it than measured it. cross-fit: every query was measured "
        "with an adapter that others chose. Empty: the same queries may have chosen and measured it.",
        examples=["split"],
    )
    selected_by: int = Field(description="Held-out queries that chose it; 0 if unknown.", examples=[240])
    selection_gain: float | None = Field(
        description="Gain on the queries that chose it, which is optimistic; null if unknown.",
        examples=[0.17],
    )
    gain_on_generated: bool = Field(
        description="Whether some of those queries were generated.", examples=[False]
    )
    gain_on_other_styles: float | None = Field(
        description="Gain on headings, sentences, phrases and keywords of documents; null if unknown.",
        examples=[-0.001],
    )
    measured: list[str] = Field(
        description="Collections on which the router knows its gain.", examples=[["nl2bash"]]
    )
    served_last_hour: int = Field(description="Queries routed or pinned to it.", examples=[42])


class ExpertsAnswer(BaseModel):
    """All experts, and the index they serve."""

    base: str = Field(examples=["sentence-transformers/all-MiniLM-L6-v2"])
    experts: list[ExpertEntry]
    others_last_hour: dict[str, int] = Field(
        description="Queries that base and merged encoded.", examples=[{"base": 3, "merged": 7}]
    )
    documents: int | None = Field(description="In the index; null without one.", examples=[10594])
    collections: list[str] = Field(description="Collections that pilots come from.", examples=[["nl2bash"]])
