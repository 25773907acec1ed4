"""Answers that are not a success."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """OpenAI's error object."""

    message: str = Field(
        examples=["There is no model 'nl2bsh'. Choose one of: routed, base, merged, nl2bash."]
    )
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The field that is wrong.", examples=["model"])
    code: str | None = Field(examples=["model_not_found"])


class ErrorAnswer(BaseModel):
    """Every answer that is not a success."""

    error: Problem
