"""Requests and answers of OpenAI's endpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from routerretriever.routing.candidates import ROUTED
from routerretriever.server.schemas.common import MANY, ONE, FilledText, Name, null_is

IDS = "ids"
ID_LISTS = "id_lists"

TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
InputType = Literal["query", "document"]
EncodingFormat = Literal["float", "base64"]


def _kind_of_input(given: Any) -> str:
    """Return which of the four kinds of input was meant, so that an error is about that one."""
    if not isinstance(given, list):
        return ONE
    first = given[0] if given else ""
    if isinstance(first, list):
        return ID_LISTS
    return IDS if isinstance(first, int) else MANY


class EmbeddingsRequest(BaseModel):
    """OpenAI's request, and whether the texts are queries or documents."""

    model_config = ConfigDict(extra="ignore")  # clients of OpenAI send fields of their own

    input: Annotated[
        Annotated[FilledText, Tag(ONE)]
        | Annotated[Annotated[list[FilledText], Field(min_length=1)], Tag(MANY)]
        | Annotated[TokenIds, Tag(IDS)]
        | Annotated[Annotated[list[TokenIds], Field(min_length=1)], Tag(ID_LISTS)],
        Discriminator(_kind_of_input),
    ] = Field(
        description="A text, a list of texts, or one or more lists of token ids of the base's tokenizer.",
        examples=["how do I untar a directory"],
    )
    model: Annotated[Name, null_is(ROUTED, str)] = Field(
        ROUTED,
        description="`routed`, `base`, `merged` or an expert's name. Documents are always the base's.",
        examples=["routed"],
    )
    input_type: Annotated[InputType, null_is("query", InputType)] = Field(
        "query", description="What the texts are. Only queries are routed.", examples=["query"]
    )
    encoding_format: Annotated[EncodingFormat, null_is("float", EncodingFormat)] = Field(
        "float", description="Numbers, or base64 of little-endian float32.", examples=["float"]
    )
    dimensions: int | None = Field(
        None,
        ge=1,
        description="Keep this many dimensions, the first ones, scaled to unit length.",
        examples=[256],
    )
    user: str | None = Field(None, description="Ignored.", examples=["team-search"])


class Embedding(BaseModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(examples=[0])
    embedding: list[float] | str = Field(examples=[[0.0123, -0.0456]])
    expert: str = Field(
        description="What encoded this row; not part of OpenAI's answer.", examples=["nl2bash"]
    )


class Usage(BaseModel):
    """How many tokens were read."""

    prompt_tokens: int = Field(examples=[8])
    total_tokens: int = Field(examples=[8])


class EmbeddingsAnswer(BaseModel):
    """OpenAI's answer; each row says which expert encoded it."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str = Field(examples=["routed"])
    usage: Usage


class ModelEntry(BaseModel):
    """Something that encodes queries."""

    id: str = Field(examples=["routed"])
    object: Literal["model"] = "model"
    created: int = Field(
        description="When the server loaded it, in seconds since 1970.", examples=[1790000000]
    )
    owned_by: str = Field(examples=["routerretriever"])


class ModelsAnswer(BaseModel):
    """What `model` of an embeddings request, and `expert` of a search, may be."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]
