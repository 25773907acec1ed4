"""Inside real pipelines of Haystack."""

import asyncio

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore

from routerretriever import Index, RouterRetriever
from routerretriever.data.document import Document as OurDocument
from routerretriever.errors import FilterError, ModelError, VectorIndexError
from routerretriever.integrations.haystack import (
    RoutedRetriever,
    RouterRetrieverDocumentEmbedder,
    RouterRetrieverTextEmbedder,
)
from routerretriever.integrations.haystack_filters import to_condition

TRUSTED = ["routerretriever.integrations.haystack"]
TEXTS = ["word1 word2", "word3", "word100 word100 word60 word7"]


@pytest.fixture(scope="module")
def dated(built, model, tmp_path_factory):
    """An index that finds its model by itself, with years."""
    path = tmp_path_factory.mktemp("dated") / "index"
    opened = Index.create(path, model, model_path=built / "model")
    opened.upsert(
        [OurDocument(f"d{n}", f"word{n}", f"Title {n}", {"year": 1990 + n}) for n in range(10)],
        collection="c",
    )
    return path


def test_embedders_and_a_store_of_haystacks(built, model):
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing = Pipeline()
    indexing.add_component("embedder", RouterRetrieverDocumentEmbedder(str(built / "model"), device="cpu"))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder", "writer")
    indexing.run({"embedder": {"documents": [Document(id=text, content=text) for text in TEXTS]}})
    stored = {document.id: document.embedding for document in store.filter_documents()}
    np.testing.assert_allclose([stored[text] for text in TEXTS], model.encode_document(TEXTS), atol=1e-5)

    querying = Pipeline()
    querying.add_component(
        "embedder", RouterRetrieverTextEmbedder(str(built / "model"), expert="alpha", device="cpu")
    )
    querying.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=3))
    querying.connect("embedder.embedding", "retriever.query_embedding")
    answer = querying.run({"embedder": {"text": "word3 word60"}}, include_outputs_from={"embedder"})
    vector = model.encode_query(["word3 word60"], expert="alpha")[0]
    np.testing.assert_allclose(answer["embedder"]["embedding"], vector, atol=1e-5)
    assert answer["embedder"]["meta"] == {"expert": "alpha"}
    base = model.encode_document(TEXTS)
    wanted = np.sort(
        (base / np.linalg.norm(base, axis=1, keepdims=True)) @ (vector / np.linalg.norm(vector))
    )[::-1]
    np.testing.assert_allclose([d.score for d in answer["retriever"]["documents"]], wanted, atol=1e-5)


def test_the_text_embedder_routes(model):
    embedder = RouterRetrieverTextEmbedder(model)
    for text in TEXTS:
        answer = embedder.run(text=text)
        np.testing.assert_allclose(answer["embedding"], model.encode_query([text])[0], atol=1e-5)
        assert answer["meta"]["expert"] == model.route(text)[0].expert
        assert asyncio.run(embedder.run_async(text=text)) == answer


def test_the_document_embedder_takes_meta_and_leaves_what_it_was_given(model):
    embedder = RouterRetrieverDocumentEmbedder(model, meta_fields_to_embed=["title"], embedding_separator=" ")
    given = [
        Document(content="word1", meta={"title": "word9"}),
        Document(content="word2"),
        Document(content=None),
    ]
    embedded = embedder.run(documents=given)["documents"]
    wanted = model.encode_document(["word9 word1", "word2", ""])
    np.testing.assert_allclose([document.embedding for document in embedded], wanted, atol=1e-5)
    assert all(document.embedding is None for document in given)
    assert embedder.run(documents=[]) == {"documents": []}
    assert asyncio.run(embedder.run_async(documents=given))["documents"] == embedded


def test_the_retriever_in_a_pipeline_written_to_a_file_and_read_again(dated):
    pipeline = Pipeline()
    filters = {"field": "meta.year", "operator": ">=", "value": 1992}
    pipeline.add_component("retriever", RoutedRetriever(dated, top_k=3, filters=filters, expert="beta"))
    text = pipeline.dumps()
    again = Pipeline.loads(text, allowed_modules=TRUSTED)
    assert again.dumps() == text
    for one in (pipeline, again):
        answer = one.run({"retriever": {"query": "word1 word5"}})["retriever"]
        hits = Index.open(dated).search("word1 word5", k=3, where="year >= 1992", expert="beta")
        assert [(d.id, d.content) for d in answer["documents"]] == [(hit.id, hit.text) for hit in hits]
        np.testing.assert_allclose(
            [d.score for d in answer["documents"]], [hit.score for hit in hits], atol=1e-5
        )
        assert answer["expert"] == "beta"
        assert answer["documents"][0].meta == {
            **hits[0].metadata,
            "title": hits[0].title,
            "collection": "c",
            "expert": "beta",
        }


def test_embedders_are_written_and_read_again(built):
    pipeline = Pipeline()
    text = RouterRetrieverTextEmbedder(built / "model", expert="alpha", device="cpu")
    documents = RouterRetrieverDocumentEmbedder(built / "model", meta_fields_to_embed=["title"], device="cpu")
    pipeline.add_component("text", text)
    pipeline.add_component("documents", documents)
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=TRUSTED)
    assert again.get_component("text").run(text="word1") == text.run(text="word1")
    assert again.get_component("documents").to_dict() == documents.to_dict()


def test_what_is_in_memory_only_cannot_be_written(model):
    for component in (RouterRetrieverTextEmbedder(model), RouterRetrieverDocumentEmbedder(model)):
        with pytest.raises(ModelError, match="Save it and give its path"):
            component.to_dict()


def test_options_of_a_run_replace_the_components(model, index):
    retriever = RoutedRetriever(index, top_k=5)
    assert len(retriever.run(query="word3")["documents"]) == 5
    where = {"field": "collection", "operator": "==", "value": "beta"}
    answer = retriever.run(query="word3", top_k=2, filters=where, expert="gamma")
    assert answer["expert"] == "gamma" and {d.meta["collection"] for d in answer["documents"]} == {"beta"}
    assert asyncio.run(retriever.run_async(query="word3", top_k=2, filters=where, expert="gamma")) == answer
    assert retriever.run(query="word3")["expert"] == model.route("word3")[0].expert


def test_warm_up_says_what_is_missing(tmp_path):
    with pytest.raises(VectorIndexError, match="no index at"):
        RoutedRetriever(tmp_path / "nothing").warm_up()
    with pytest.raises(ModelError, match="no model at"):
        RouterRetrieverTextEmbedder(str(tmp_path / "nothing")).warm_up()


@pytest.mark.parametrize(
    ("filters", "years"),
    [
        ({"field": "meta.year", "operator": "in", "value": [1990, 1995]}, {1990, 1995}),
        ({"field": "year", "operator": "not in", "value": list(range(1990, 1998))}, {1998, 1999}),
        ({"field": "meta.year", "operator": "!=", "value": 1990}, set(range(1991, 2000))),
        (
            {
                "operator": "AND",
                "conditions": [
                    {"field": "meta.year", "operator": ">", "value": 1991},
                    {"field": "meta.year", "operator": "<", "value": 1995},
                    {
                        "operator": "NOT",
                        "conditions": [{"field": "meta.year", "operator": "==", "value": 1993}],
                    },
                ],
            },
            {1992, 1994},
        ),
        (
            {
                "operator": "OR",
                "conditions": [
                    {"field": "meta.year", "operator": "<=", "value": 1990},
                    {"field": "title", "operator": "==", "value": "Title 9"},
                ],
            },
            {1990, 1999},
        ),
    ],
)
def test_haystacks_filters(dated, filters, years):
    documents = RoutedRetriever(dated, top_k=20).run(query="word1", filters=filters)["documents"]
    assert {document.meta["year"] for document in documents} == years
    in_memory = InMemoryDocumentStore()
    in_memory.write_documents(
        [Document(id=f"d{n}", content="x", meta={"year": 1990 + n, "title": f"Title {n}"}) for n in range(10)]
    )
    if (
        "title" not in str(filters) and filters.get("field") != "year"
    ):  # Haystack's own reading of the same filter
        assert {document.meta["year"] for document in in_memory.filter_documents(filters)} == years


METAS = [{"year": 1990}, {"year": 1991, "place": "Rome"}, {"place": "Bern"}, {}]


@pytest.fixture(scope="module")
def both_stores(model, built, tmp_path_factory):
    """The same documents in our index and in Haystack's own store; some have no year, some no place."""
    path = tmp_path_factory.mktemp("both") / "index"
    opened = Index.create(path, model, model_path=built / "model")
    opened.upsert([OurDocument(f"d{n}", f"word{n}", "", meta) for n, meta in enumerate(METAS)])
    in_memory = InMemoryDocumentStore()
    in_memory.write_documents(
        [Document(id=f"d{n}", content=f"word{n}", meta=meta) for n, meta in enumerate(METAS)]
    )
    return opened, in_memory


def leaf(operator, value, field="meta.year"):
    return {"field": field, "operator": operator, "value": value}


LEAVES = [leaf(operator, value) for operator in ("==", "!=") for value in (1990, None)]
LEAVES += [leaf(operator, 1990) for operator in ("<", "<=", ">", ">=")]
LEAVES += [leaf(operator, None) for operator in ("<", ">=")]
LEAVES += [
    leaf(operator, value) for operator in ("in", "not in") for value in ([1990], [1990, None], [None], [])
]
LEAVES += [leaf("==", "Rome", "meta.place"), leaf("!=", "Rome", "meta.place"), leaf("==", "word2", "content")]
NESTED = [
    {"operator": "NOT", "conditions": [leaf("==", 1990), leaf("==", "Rome", "meta.place")]},
    {
        "operator": "NOT",
        "conditions": [{"operator": "OR", "conditions": [leaf("==", 1990), leaf("!=", 1991)]}],
    },
    {"operator": "AND", "conditions": [leaf("!=", 1990), leaf("!=", "Bern", "meta.place")]},
]


@pytest.mark.parametrize(
    "filters", [*LEAVES, *({"operator": "NOT", "conditions": [one]} for one in LEAVES), *NESTED], ids=str
)
def test_a_filter_means_what_it_means_in_haystacks_own_store(both_stores, filters):
    index, in_memory = both_stores
    found = RoutedRetriever(index, top_k=20).run(query="word1", filters=filters)["documents"]
    assert {document.id for document in found} == {
        document.id for document in in_memory.filter_documents(filters)
    }


@pytest.mark.parametrize(
    "filters",
    [
        {"field": "year"},
        {"year": 1990},
        {"field": "year", "operator": "~", "value": 1},
        {"operator": "AND", "conditions": []},
        {"operator": "AND", "conditions": None},
        {"operator": "NOT", "conditions": {"field": "year", "operator": "==", "value": 1}},
        {"operator": "OR", "conditions": ["year"]},
    ],
)
def test_what_is_no_filter_is_refused(dated, filters):
    with pytest.raises(FilterError):
        RoutedRetriever(dated).run(query="word1", filters=filters)


def test_a_field_called_content_is_not_the_documents_content():
    field = {"field": "meta.content", "operator": "<", "value": "x"}
    assert to_condition(field) == {"content": {"lt": "x"}}
    assert to_condition(field | {"field": "content"}) == {"text": {"lt": "x"}}


def test_an_open_index_is_not_searched_with_another_model(index, built):
    assert RoutedRetriever(index, model=index.model)._opened() is index
    with pytest.raises(VectorIndexError, match="is open and has a model"):
        RoutedRetriever(index, model=RouterRetriever.from_pretrained(built / "model", device="cpu")).warm_up()


def test_conditions_are_plain_data():
    assert to_condition({"field": "meta.a", "operator": "==", "value": "x' OR 1=1"}) == {
        "a": {"eq": "x' OR 1=1"}
    }
