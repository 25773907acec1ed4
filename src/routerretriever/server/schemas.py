"""Requests and answers of the API, as OpenAPI shows them; every field with an example."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_NAME = 200

Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Request(BaseModel):
    """A body in which unknown fields are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid")


class EmbeddingsRequest(BaseModel):
    """OpenAI's request, and whether the texts are queries or documents."""

    model_config = ConfigDict(extra="ignore")  # clients of OpenAI send fields of their own

    input: Text | Annotated[list[Text], Field(min_length=1)] | Tokens | Annotated[list[Tokens], Field(min_length=1)] = (
        Field(
            description="A text, a list of texts, or one or many lists of token ids of the base's own tokeniser.",
            examples=["how do I untar a directory"],
        )
    )
    model: str = Field(
        "routed",
        max_length=MAX_NAME,
        description="`routed`, `base`, `merged` or an expert's name. Documents are always the base's.",
        examples=["routed"],
    )
    input_type: Literal["query", "document"] = Field(
        "query", description="What the texts are. Only queries are routed.", examples=["query"]
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Numbers, or base64 of little-endian float32.", examples=["float"]
    )
    dimensions: int | None = Field(
        None, ge=1, description="Keep the first so many dimensions, scaled to unit length.", examples=[256]
    )
    user: str | None = Field(None, description="Ignored.", examples=["team-search"])


class Embedding(BaseModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(examples=[0])
    embedding: list[float] | str = Field(examples=[[0.0123, -0.0456]])
    expert: str = Field(description="What encoded this row; not part of OpenAI's answer.", examples=["nl2bash"])


class Usage(BaseModel):
    """Tokens read."""

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
    created: int = Field(description="Seconds since 1970: when the server loaded it.", examples=[1790000000])
    owned_by: str = Field(examples=["routerretriever"])


class ModelsAnswer(BaseModel):
    """What `model` of an embeddings request, and `expert` of a search, may be."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class QueriesRequest(Request):
    """One query, or several."""

    query: Text | Annotated[list[Text], Field(min_length=1)] = Field(examples=["how do I untar a directory"])

    @property
    def queries(self) -> list[str]:
        """As a list."""
        return [self.query] if isinstance(self.query, str) else self.query


class SearchRequest(QueriesRequest):
    """One query, or several."""

    k: int = Field(10, ge=1, le=1000, description="Results of each query, at most.", examples=[10])
    expert: str | None = Field(
        None, max_length=MAX_NAME, description="Pins base, merged or an expert; null routes.", examples=["nl2bash"]
    )
    filter: dict[str, Any] | None = Field(
        None,
        description="Conditions on `id`, `collection`, `title`, `text` and metadata: `{field: value}`, "
        "`{field: {op: value}}` with eq, ne, lt, lte, gt, gte, in, and `and`, `or`, `not` of such.",
        examples=[{"collection": "nl2bash"}],
    )
    exact: bool = Field(False, description="Scan all vectors even where there is an index.", examples=[False])
    mode: Literal["vector", "text", "hybrid"] = Field(
        "vector",
        description="By similarity, by the words of title and text (BM25, no model), or by both. "
        "The last two need a text index.",
        examples=["hybrid"],
    )


class HitEntry(BaseModel):
    """A document found."""

    id: str = Field(examples=["d17"])
    score: float = Field(
        description="Similarity of query and document; BM25 in mode text, both fused in mode hybrid.", examples=[0.71]
    )
    title: str = Field(examples=["tar"])
    text: str = Field(examples=["tar -xf archive.tar -C directory"])
    collection: str = Field(examples=["nl2bash"])
    metadata: dict[str, Any] = Field(examples=[{"year": 2024}])


class SearchResult(BaseModel):
    """What one query found."""

    query: str = Field(examples=["how do I untar a directory"])
    expert: str | None = Field(description="What encoded the query; null in mode text.", examples=["nl2bash"])
    hits: list[HitEntry]


class SearchAnswer(BaseModel):
    """Results in the order of the queries."""

    fingerprint: str = Field(
        description="Of base and document prompt, whatever the experts; feedback that carries another is refused.",
        examples=["78e5d4f96b08ee573cbdd67dc89276cf"],
    )
    results: list[SearchResult]


class DocumentName(Request):
    """A document that was shown, or clicked."""

    id: str = Field(min_length=1, max_length=1024, examples=["d17"])
    collection: str = Field("", max_length=MAX_NAME, examples=["nl2bash"])


class Judgement(DocumentName):
    """A document, and how relevant it is."""

    grade: int = Field(ge=0, le=1000, examples=[1])


class FeedbackRequest(Request):
    """What was shown for a query, and what was clicked or judged: one of the two."""

    query: str = Field(min_length=1, max_length=100_000, examples=["how do I untar a directory"])
    shown: list[DocumentName] = Field(
        min_length=1, max_length=1000, description="In the order shown.", examples=[[{"id": "d3"}, {"id": "d17"}]]
    )
    clicked: list[DocumentName] | None = Field(
        None, max_length=1000, description="Empty if nothing was.", examples=[[{"id": "d17"}]]
    )
    judged: list[Judgement] | None = Field(
        None, max_length=1000, description="Instead of clicks.", examples=[[{"id": "d17", "grade": 1}]]
    )
    expert: str | None = Field(None, max_length=MAX_NAME, description="What encoded the query.", examples=["nl2bash"])
    fingerprint: str | None = Field(
        None, max_length=MAX_NAME, description="As the search answered.", examples=["78e5d4f96b08ee573cbdd67dc89276cf"]
    )


class RouteRequest(QueriesRequest):
    """One query, or several."""

    pilots: int = Field(5, ge=0, le=50, description="Nearest pilots to show.", examples=[5])


class PilotEntry(BaseModel):
    """A pilot near the query."""

    collection: str = Field(examples=["nl2bash"])
    example: str = Field(examples=["extract a tar archive"])
    similarity: float = Field(examples=[0.82])
    gains: dict[str, float] = Field(
        description="Measured gains; empty for a training query.", examples=[{"nl2bash": 0.3}]
    )


class RouteEntry(BaseModel):
    """Where one query goes, and why."""

    query: str = Field(examples=["how do I untar a directory"])
    expert: str = Field(examples=["nl2bash"])
    strength: float = Field(description="Share of the expert's update that is applied.", examples=[1.0])
    gains: dict[str, float] = Field(
        description="Predicted gain of every candidate, in nDCG@10 over base.",
        examples=[{"base": 0.0, "nl2bash": 0.17}],
    )
    familiarity: float = Field(description="0 is the average of what the pilots know.", examples=[0.4])
    abstained: bool = Field(description="No pilot knows the query: the fallback was taken.", examples=[False])
    reason: str = Field(examples=["nl2bash is predicted to gain +17.0 nDCG@10 points over the base"])
    pilots: list[PilotEntry]
    position: tuple[float, float] | None = Field(
        description="Place on the map of `/v1/map`; null until that was drawn.", examples=[[0.2, -0.7]]
    )


class RouteAnswer(BaseModel):
    """Routes in the order of the queries."""

    routes: list[RouteEntry]


class DocumentEntry(Request):
    """A document to be stored."""

    id: str = Field(min_length=1, max_length=1024, examples=["d17"])
    text: str = Field(examples=["tar -xf archive.tar -C directory"])
    title: str = Field("", examples=["tar"])
    metadata: dict[str, str | int | float | bool] = Field(default_factory=dict, examples=[{"year": 2024}])


class DocumentsRequest(Request):
    """Documents to add, or to put in the place of those of the same collection and id."""

    collection: str = Field("", max_length=MAX_NAME, examples=["nl2bash"])
    documents: list[DocumentEntry] = Field(min_length=1)


class DocumentsAnswer(BaseModel):
    """What was written."""

    written: int = Field(examples=[1])
    documents: int = Field(description="In the index now.", examples=[10594])


class DeleteRequest(Request):
    """Documents to delete; unknown ids are ignored."""

    collection: str = Field("", max_length=MAX_NAME, examples=["nl2bash"])
    ids: list[Annotated[str, Field(min_length=1, max_length=1024)]] = Field(min_length=1, examples=[["d17"]])


class DeleteAnswer(BaseModel):
    """What was deleted."""

    deleted: int = Field(examples=[1])
    documents: int = Field(description="In the index now.", examples=[10593])


class ExpertEntry(BaseModel):
    """An expert."""

    name: str = Field(examples=["nl2bash"])
    collection: str = Field(description="What it was trained on; empty if imported.", examples=["nl2bash"])
    queries: int = Field(description="Training queries.", examples=[6714])
    held_out: int = Field(description="Held-out queries it was measured on; 0 if unknown.", examples=[500])
    base_ndcg: float = Field(description="nDCG@10 of the base on them.", examples=[0.537])
    expert_ndcg: float = Field(description="nDCG@10 of the expert on them.", examples=[0.7])
    gain: float = Field(examples=[0.163])
    gain_on_generated: bool = Field(
        description="Whether queries among those were generated: nobody asked them.", examples=[False]
    )
    measured: list[str] = Field(description="Collections on which the router knows its gain.", examples=[["nl2bash"]])
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


class MapPoint(BaseModel):
    """A pilot or training query on the map."""

    x: float = Field(examples=[0.2])
    y: float = Field(examples=[-0.7])
    example: str = Field(examples=["extract a tar archive"])
    collection: str = Field(examples=["nl2bash"])
    expert: str = Field(description="The candidate with the highest score there.", examples=["nl2bash"])
    gain: float = Field(description="Its score; see `scores`.", examples=[0.17])
    measured: bool = Field(description="A pilot with measured gains, or a training query.", examples=[True])


class MapAnswer(BaseModel):
    """Pilots and training queries in two dimensions, within -1..1."""

    points: list[MapPoint]
    scores: Literal["gain", "similarity"] = Field(
        description="What `gain` is: nDCG@10 over base, or a similarity under the paper's rules.", examples=["gain"]
    )


class Problem(BaseModel):
    """OpenAI's error object."""

    message: str = Field(examples=["There is no model 'nl2bsh'. Choose one of: routed, base, merged, nl2bash."])
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The field that is wrong.", examples=["model"])
    code: str | None = Field(examples=["model_not_found"])


class ErrorAnswer(BaseModel):
    """Every answer that is not a success."""

    error: Problem


class Status(BaseModel):
    """Whether the server lives, or is ready."""

    status: str = Field(examples=["ready"])
