"""What people clicked or judged."""

from __future__ import annotations

from pydantic import Field

from routerretriever.server.schemas.common import CollectionName, DocumentId, Name, Request, Text


class DocumentName(Request):
    """A document that was shown, or clicked."""

    id: DocumentId = Field(examples=["d17"])
    collection: CollectionName = Field("", examples=["nl2bash"])


class Judgement(DocumentName):
    """A document, and how relevant it is."""

    grade: int = Field(ge=0, le=1000, examples=[1])


class FeedbackRequest(Request):
    """What was shown for a query, and what was clicked or judged: one of the two."""

    query: Text = Field(min_length=1, max_length=100_000, examples=["how do I untar a directory"])
    shown: list[DocumentName] = Field(
        min_length=1,
        max_length=1000,
        description="In the order shown.",
        examples=[[{"id": "d3"}, {"id": "d17"}]],
    )
    clicked: list[DocumentName] | None = Field(
        None, max_length=1000, description="Empty if nothing was.", examples=[[{"id": "d17"}]]
    )
    judged: list[Judgement] | None = Field(
        None, max_length=1000, description="Instead of clicks.", examples=[[{"id": "d17", "grade": 1}]]
    )
    expert: Name | None = Field(None, description="What encoded the query.", examples=["nl2bash"])
    fingerprint: Name | None = Field(
        None, description="As the search answered.", examples=["78e5d4f96b08ee573cbdd67dc89276cf"]
    )
