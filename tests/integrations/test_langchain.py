"""LangChain's own contract tests, and what they do not ask."""

import numpy as np
import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from routerretriever import Index, RouterRetriever
from routerretriever.data.document import Document
from routerretriever.errors import ExpertError, VectorIndexError
from routerretriever.integrations.langchain import RoutedRetriever, RouterRetrieverEmbeddings

pytestmark = pytest.mark.anyio
TEXTS = ["word1 word2", "word3", "word100 word100 word60 word7"]


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def router(built):  # LangChain's contract tests have a fixture called model
    return RouterRetriever.from_pretrained(built / "model", device="cpu")


@pytest.fixture(scope="module")
def index(built, router):
    return Index.open(built / "index", router)


class _OurEmbeddings:
    @pytest.fixture(autouse=True)
    def _router(self, router):
        self.ours = router

    @property
    def embeddings_class(self):
        return RouterRetrieverEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": self.ours}


class TestEmbeddings(_OurEmbeddings, EmbeddingsIntegrationTests):
    pass


class TestEmbeddingsUnit(_OurEmbeddings, EmbeddingsUnitTests):
    pass


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _index(self, index):
        self.ours = index

    @property
    def retriever_constructor(self):
        return RoutedRetriever

    @property
    def retriever_constructor_params(self):
        return {"index": self.ours}

    @property
    def retriever_query_example(self):
        return "word3 word60"


def test_queries_are_routed_and_documents_the_bases(built, router):
    embeddings = RouterRetrieverEmbeddings(built / "model", device="cpu")
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), router.encode_query(TEXTS[:1])[0], atol=1e-5)
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), router.encode_document(TEXTS), atol=1e-5)
    assert embeddings.embed_documents([]) == []
    pinned = RouterRetrieverEmbeddings(router, expert="alpha")
    wanted = router.encode_query(TEXTS[:1], expert="alpha")[0]
    np.testing.assert_allclose(pinned.embed_query(TEXTS[0]), wanted, atol=1e-5)
    np.testing.assert_allclose(pinned.embed_documents(TEXTS), router.encode_document(TEXTS), atol=1e-5)
    assert np.abs(wanted - router.encode_document(TEXTS[:1])[0]).max() > 1e-2
    with pytest.raises(ExpertError, match="nobody"):
        RouterRetrieverEmbeddings(router, expert="nobody")


def test_a_vector_store_of_langchains_finds_what_the_index_finds(router, index):
    store = InMemoryVectorStore(RouterRetrieverEmbeddings(router, expert="beta"))
    documents = {hit.text for hit in index.search("word1", k=200)}
    store.add_texts(sorted(documents))
    found = store.similarity_search_with_score("word3 word60", k=3)
    wanted = index.search("word3 word60", k=3, expert="beta", mode="vector")
    np.testing.assert_allclose([score for _, score in found], [hit.score for hit in wanted], atol=1e-5)


async def test_the_retriever_passes_its_options_on_and_says_what_encoded_the_query(router, index):
    retriever = RoutedRetriever(index=index, k=4, where={"collection": "alpha"})
    for query in TEXTS:
        documents = retriever.invoke(query)
        hits = index.search(query, k=4, where={"collection": "alpha"})
        assert [(d.id, d.page_content) for d in documents] == [(hit.id, hit.text) for hit in hits]
        np.testing.assert_allclose(
            [d.metadata["score"] for d in documents], [hit.score for hit in hits], atol=1e-5
        )
        assert {d.metadata["collection"] for d in documents} == {"alpha"}
        assert {d.metadata["expert"] for d in documents} == {router.route(query)[0].expert}
    pinned = await retriever.ainvoke(TEXTS[0], k=2, expert="gamma", where="collection = 'beta'")
    assert len(pinned) == 2
    assert {(d.metadata["expert"], d.metadata["collection"]) for d in pinned} == {("gamma", "beta")}
    dated = retriever.invoke("word9", where={"year": 1999})
    assert (dated[0].metadata["year"], dated[0].metadata["draft"]) == (1999, True)


def test_it_stands_in_a_chain(index):
    chain = RoutedRetriever(index=index, k=2) | RunnableLambda(lambda found: [d.id for d in found])
    assert [len(ids) for ids in chain.batch(TEXTS)] == [2, 2, 2]


def test_an_index_is_opened_by_its_path(built, router, tmp_path):
    Index.create(tmp_path / "index", router, model_path=built / "model").upsert([Document("a", "word1")])
    assert RoutedRetriever(index=tmp_path / "index").invoke("word1")[0].id == "a"
    with pytest.raises(VectorIndexError, match="no index at"):
        RoutedRetriever(index=tmp_path / "nothing")
