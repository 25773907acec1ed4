"""The endpoint for embeddings through the clients that people have."""

import httpx
import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai import OpenAIEmbedding

TEXTS = ["word1 word2", "word3", "word100 word100 word60 word7 word8 word9"]


def test_openais_client(client, model):
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none") as openai_client:
        answer = openai_client.embeddings.create(model="routed", input=TEXTS)  # asks for base64 by itself
        np.testing.assert_allclose(
            [row.embedding for row in answer.data], model.encode_query(TEXTS), atol=1e-5
        )
        assert answer.data[0].expert in model.state.candidates
        assert [entry.id for entry in openai_client.models.list()][:2] == ["routed", "base"]
        documents = openai_client.embeddings.create(
            model="base", input=TEXTS, extra_body={"input_type": "document"}
        )
        np.testing.assert_allclose(
            [row.embedding for row in documents.data], model.encode_document(TEXTS), atol=1e-5
        )
        with pytest.raises(openai.NotFoundError, match="Choose one of"):
            openai_client.embeddings.create(model="nobody", input="x")


def test_langchains_client(client, model):
    embeddings = OpenAIEmbeddings(
        model="alpha", base_url=f"{client.base_url}/v1", api_key="none", check_embedding_ctx_length=False
    )
    np.testing.assert_allclose(
        embeddings.embed_query(TEXTS[0]), model.encode_query(TEXTS[:1], expert="alpha")[0], atol=1e-5
    )
    np.testing.assert_allclose(
        embeddings.embed_documents(TEXTS), model.encode_query(TEXTS, expert="alpha"), atol=1e-5
    )


def test_llama_indexs_client(client, model):
    with httpx.Client() as transport:
        embedding = OpenAIEmbedding(
            model_name="routed", api_base=f"{client.base_url}/v1", api_key="none", http_client=transport
        )
        np.testing.assert_allclose(
            embedding.get_query_embedding(TEXTS[0]), model.encode_query(TEXTS)[0], atol=1e-5
        )
        batch = embedding.get_text_embedding_batch(TEXTS)
    np.testing.assert_allclose(batch, model.encode_query(TEXTS), atol=1e-5)
