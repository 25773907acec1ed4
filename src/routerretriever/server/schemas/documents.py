"""Documents that are added or deleted."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from routerretriever.data.text import HALF_CHARACTER, is_text
from routerretriever.server.schemas.common import CollectionName, DocumentId, Request, Text, null_is


def _check_fields(metadata: dict[str, Any]) -> dict[str, Any]:
    for name, value in metadata.items():
        if not is_text(name) or (isinstance(value, str) and not is_text(value)):
            raise ValueError(HALF_CHARACTER)
    return metadata


Fields = dict[str, str | int | float | bool | None]
Metadata = Annotated[Fields, AfterValidator(_check_fields), null_is({}, Fields)]


class DocumentEntry(Request):
    """A document to be stored."""

    id: DocumentId = Field(examples=["d17"])
    text: Text = Field(examples=["tar -xf archive.tar -C directory"])
    title: Annotated[Text, null_is("", Text)] = Field("", examples=["tar"])
    metadata: Metadata = Field(default_factory=dict, examples=[{"year": 2024}])


class DocumentsRequest(Request):
    """Documents to add; each replaces the one of the same collection and id."""

    collection: CollectionName = Field("", examples=["nl2bash"])
    documents: list[DocumentEntry] = Field(min_length=1)


class DocumentsAnswer(BaseModel):
    """What was written."""

    written: int = Field(examples=[1])
    documents: int = Field(description="In the index now.", examples=[10594])


class DeleteRequest(Request):
    """Documents to delete; unknown ids are ignored."""

    collection: CollectionName = Field("", examples=["nl2bash"])
    ids: list[DocumentId] = Field(min_length=1, examples=[["d17"]])


class DeleteAnswer(BaseModel):
    """What was deleted."""

    deleted: int = Field(examples=[1])
    documents: int = Field(description="In the index now.", examples=[10593])
