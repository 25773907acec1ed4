"""What requests and answers of several endpoints have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from routerretriever.data.text import EMPTY_QUERY, HALF_CHARACTER, is_text

MAX_NAME = 200
MAX_ID = 1024

# What a text or a list of texts is called where an error says which part of a field is wrong.
ONE = "one"
MANY = "many"


def _without_half_characters(text: str) -> str:
    if not is_text(text):
        raise ValueError(HALF_CHARACTER)
    return text


Text = Annotated[str, AfterValidator(_without_half_characters)]
FilledText = Annotated[Text, Field(min_length=1)]
Name = Annotated[Text, Field(max_length=MAX_NAME)]
DocumentId = Annotated[Text, Field(min_length=1, max_length=MAX_ID)]


def null_is(default: Any, kind: Any) -> BeforeValidator:
    """Read null as "not given", as clients mean it that write every field."""
    return BeforeValidator(
        lambda given: default if given is None else given,
        json_schema_input_type=kind | None,
    )


CollectionName = Annotated[Name, null_is("", Name)]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError(EMPTY_QUERY)
    return text


Query = Annotated[Text, AfterValidator(_not_blank)]


def _one_or_many(given: Any) -> str:
    return MANY if isinstance(given, list) else ONE


class Request(BaseModel):
    """A body in which unknown fields are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid")


class QueriesRequest(Request):
    """One query, or several."""

    query: Annotated[
        Annotated[Query, Tag(ONE)] | Annotated[Annotated[list[Query], Field(min_length=1)], Tag(MANY)],
        Discriminator(_one_or_many),
    ] = Field(examples=["how do I untar a directory"])

    @property
    def queries(self) -> list[str]:
        """As a list."""
        return [self.query] if isinstance(self.query, str) else self.query


class Status(BaseModel):
    """Whether the server is alive, or ready."""

    status: str = Field(examples=["ready"])
