"""LlamaIndex's own indexes and query engines over ours."""

import asyncio

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import MetadataMode, TextNode

from routerretriever import Index
from routerretriever.data.document import Document
from routerretriever.errors import ExpertError
from routerretriever.integrations.llama_index import RoutedRetriever, RouterRetrieverEmbedding

TEXTS = ["word1 word2", "word3", "word100 word100 word60 word7"]


def test_queries_are_routed_and_texts_the_bases(model):
    embedding = RouterRetrieverEmbedding(model)
    routed, base = model.encode_query(TEXTS), model.encode_document(TEXTS)
    np.testing.assert_allclose([embedding.get_query_embedding(text) for text in TEXTS], routed, atol=1e-5)
    np.testing.assert_allclose(embedding.get_text_embedding(TEXTS[0]), base[0], atol=1e-5)
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), base, atol=1e-5)


def test_the_same_asynchronously(model):
    embedding = RouterRetrieverEmbedding(model, expert="alpha", embed_batch_size=2)
    pinned, base = model.encode_query(TEXTS, expert="alpha"), model.encode_document(TEXTS)

    async def all_at_once():
        queries = await asyncio.gather(*(embedding.aget_query_embedding(text) for text in TEXTS))
        return (
            queries,
            await embedding.aget_text_embedding(TEXTS[0]),
            await embedding.aget_text_embedding_batch(TEXTS),
        )

    queries, one, batch = asyncio.run(all_at_once())
    np.testing.assert_allclose(queries, pinned, atol=1e-5)
    np.testing.assert_allclose(one, base[0], atol=1e-5)
    np.testing.assert_allclose(batch, base, atol=1e-5)


def test_it_is_written_as_data_and_read_again(built):
    embedding = RouterRetrieverEmbedding(built / "model", expert="beta", device="cpu", embed_batch_size=7)
    again = RouterRetrieverEmbedding.from_dict(embedding.to_dict())
    assert (again.expert, again.embed_batch_size, again.model_name) == ("beta", 7, str(built / "model"))
    assert again.get_query_embedding("word1") == embedding.get_query_embedding("word1")
    with pytest.raises(ExpertError, match="nobody"):
        RouterRetrieverEmbedding(built / "model", expert="nobody", device="cpu")


def test_llama_indexs_own_index_finds_what_ours_finds(model, index):
    hits = index.search("word3 word60", k=5, expert="beta", where={"collection": "alpha"}, mode="vector")
    texts = {
        hit.id: hit.text for hit in index.search("word1", k=200, where={"collection": "alpha"}, mode="vector")
    }
    theirs = VectorStoreIndex(
        [TextNode(id_=key, text=text) for key, text in texts.items()],
        embed_model=RouterRetrieverEmbedding(model, expert="beta"),
    )
    found = theirs.as_retriever(similarity_top_k=5).retrieve("word3 word60")
    np.testing.assert_allclose([node.score for node in found], [hit.score for hit in hits], atol=1e-5)


def test_the_retriever(model, index):
    retriever = RoutedRetriever(index, k=4, where={"collection": "alpha"})
    for query in TEXTS:
        hits = index.search(query, k=4, where={"collection": "alpha"})
        nodes = retriever.retrieve(query)
        assert [(node.id_, node.text) for node in nodes] == [(hit.id, hit.text) for hit in hits]
        np.testing.assert_allclose([node.score for node in nodes], [hit.score for hit in hits], atol=1e-5)
        assert {node.metadata["expert"] for node in nodes} == {model.route(query)[0].expert}
        assert asyncio.run(retriever.aretrieve(query)) == nodes
        assert "alpha" not in nodes[0].node.get_content(MetadataMode.LLM)
    (pinned, *_) = RoutedRetriever(index, expert="gamma").retrieve("word1")
    assert pinned.metadata["expert"] == "gamma"


def test_an_index_is_opened_by_its_path(built, model, tmp_path):
    opened = Index.create(tmp_path / "index", model, model_path=built / "model")
    opened.upsert([Document("a", "word1", "", {"year": 2001})])
    (node,) = RoutedRetriever(tmp_path / "index").retrieve("word1")
    assert (node.id_, node.metadata["year"]) == ("a", 2001)


def test_it_stands_in_a_query_engine(index):
    engine = RetrieverQueryEngine(
        RoutedRetriever(index, k=2), get_response_synthesizer(llm=MockLLM(), response_mode="compact")
    )
    assert len(engine.query("word3").source_nodes) == 2
