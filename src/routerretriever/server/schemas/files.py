"""Files that are uploaded, and what the index holds."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class UploadedFile(BaseModel):
    """What became of a file."""

    name: str = Field(examples=["leave.pdf"])
    indexed: bool = Field(examples=[True])
    problem: str | None = Field(
        description="Why it was not indexed; null if it was.", examples=["it is encrypted."]
    )


class UploadAnswer(BaseModel):
    """What became of each file, in their order."""

    files: list[UploadedFile]
    documents: int = Field(description="In the index now.", examples=[120])


class IndexedDocument(BaseModel):
    """A document of the index, without its text."""

    id: str = Field(examples=["teams/travel.html"])
    collection: str = Field(examples=["handbook"])
    title: str = Field(examples=["Travel"])
    metadata: dict[str, Any] = Field(examples=[{"type": "html", "modified": "2026-01-05T10:00:00Z"}])


class IndexedCollection(BaseModel):
    """A collection of the index."""

    name: str = Field(examples=["handbook"])
    documents: int = Field(examples=[120])


class IndexedAnswer(BaseModel):
    """What the index holds."""

    documents: int = Field(examples=[120])
    passages: int | None = Field(
        description="Number of passages; null for a key that does not see all documents.", examples=[840]
    )
    collections: list[IndexedCollection]
    newest: list[IndexedDocument] = Field(description="Documents, those written last first.")
    files_of: str | None = Field(
        description="The collection whose files are under `/files/`; null if no files are served.",
        examples=["handbook"],
    )
    writable: bool = Field(description="Whether this key may add and delete documents.", examples=[True])
