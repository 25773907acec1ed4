"""OpenAI's endpoint, also through the clients that people have."""

import base64

import httpx
import numpy as np
import openai
import pytest

from routerretriever import RouterRetriever

TEXTS = ["word1 word2", "word3", "word100 word100 word60 word7 word8 word9"]


@pytest.fixture(scope="module")
def model(built):
    return RouterRetriever.from_pretrained(built / "model", device="cpu")


@pytest.fixture
def openai_client(client):
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none") as found:
        yield found


def embed(client, **body):
    return client.post("/v1/embeddings", json={"input": TEXTS, **body})


def vectors(answer):
    assert answer.status_code == 200, answer.text
    return np.array([row["embedding"] for row in answer.json()["data"]], np.float32)


@pytest.mark.parametrize("name", ["base", "merged", "alpha", "gamma"])
def test_a_pinned_candidate_gives_the_models_own_vectors(client, model, name):
    answer = embed(client, model=name)
    np.testing.assert_allclose(vectors(answer), model.encode_query(TEXTS, expert=name), atol=1e-5)
    assert [row["expert"] for row in answer.json()["data"]] == [name] * 3
    assert answer.json()["model"] == name


def test_routed_is_the_default_and_says_what_encoded_each_row(client, model):
    answer = embed(client)
    np.testing.assert_allclose(vectors(answer), model.encode_query(TEXTS), atol=1e-5)
    assert [row["expert"] for row in answer.json()["data"]] == [route.expert for route in model.route(TEXTS)]
    assert answer.json()["usage"]["prompt_tokens"] == sum(len(text.split()) + 2 for text in TEXTS)


def test_documents_are_the_bases_whatever_model_is_asked_for(client, model):
    answer = embed(client, input_type="document", model="alpha")
    np.testing.assert_allclose(vectors(answer), model.encode_document(TEXTS), atol=1e-5)
    assert {row["expert"] for row in answer.json()["data"]} == {"base"}


def test_base64_is_the_same_numbers(client):
    rows = embed(client, encoding_format="base64", model="beta").json()["data"]
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows]
    np.testing.assert_allclose(decoded, vectors(embed(client, model="beta")), atol=1e-6)


def test_dimensions_are_the_first_ones_at_unit_length(client):
    short, whole = vectors(embed(client, dimensions=5)), vectors(embed(client))
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-5)
    kept = whole[:, :5]
    np.testing.assert_allclose(short, kept / np.linalg.norm(kept, axis=1, keepdims=True), atol=1e-5)


def test_token_ids_are_the_bases_own(client, model):
    ids = [model.encoder.tokenizer(text)["input_ids"] for text in TEXTS]
    np.testing.assert_allclose(vectors(embed(client, input=ids)), vectors(embed(client)), atol=1e-5)
    np.testing.assert_allclose(vectors(embed(client, input=ids[1])), vectors(embed(client))[1:2], atol=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "nobody"}, 404, "model"),
        ({"input": []}, 422, "input"),
        ({"input": ""}, 422, "input"),
        ({"input": ["a", ""]}, 422, "input"),
        ({"input": [[]]}, 422, "input"),
        ({"input": [[10**6]]}, 400, "input"),
        ({"input": [[0]]}, 400, "input"),
        ({"input": {"a": 1}}, 422, "input"),
        ({"input": ["a", 1]}, 422, "input"),
        ({"input_type": "passage"}, 422, "input_type"),
        ({"encoding_format": "int8"}, 422, "encoding_format"),
        ({"dimensions": 0}, 422, "dimensions"),
        ({"dimensions": 33}, 400, "dimensions"),
        ({"input": ["x"] * 3000}, 413, None),
        ({"input": "x" * 200_000}, 413, None),
    ],
)
def test_a_bad_request_names_the_field(client, body, status, param):
    answer = embed(client, **body)
    problem = answer.json()["error"]
    assert (answer.status_code, problem["param"]) == (status, param)
    assert problem["message"] and problem["type"] == "invalid_request_error"


def test_what_is_not_json_is_said_to_be_so(client):
    answer = client.post("/v1/embeddings", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json"


def test_models_are_all_candidates(client):
    names = [entry["id"] for entry in client.get("/v1/models").json()["data"]]
    assert names == ["routed", "base", "merged", "alpha", "beta", "gamma"]


def test_openais_client(openai_client, model):
    answer = openai_client.embeddings.create(model="routed", input=TEXTS)  # asks for base64 by itself
    np.testing.assert_allclose([row.embedding for row in answer.data], model.encode_query(TEXTS), atol=1e-5)
    assert answer.data[0].expert in model.encoder.candidates
    assert [entry.id for entry in openai_client.models.list()][:2] == ["routed", "base"]
    documents = openai_client.embeddings.create(model="base", input=TEXTS, extra_body={"input_type": "document"})
    np.testing.assert_allclose([row.embedding for row in documents.data], model.encode_document(TEXTS), atol=1e-5)
    with pytest.raises(openai.NotFoundError, match="Choose one of"):
        openai_client.embeddings.create(model="nobody", input="x")


def test_langchains_client(client, model):
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        model="alpha", base_url=f"{client.base_url}/v1", api_key="none", check_embedding_ctx_length=False
    )
    np.testing.assert_allclose(
        embeddings.embed_query(TEXTS[0]), model.encode_query(TEXTS[:1], expert="alpha")[0], atol=1e-5
    )
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), model.encode_query(TEXTS, expert="alpha"), atol=1e-5)


def test_llama_indexs_client(client, model):
    from llama_index.embeddings.openai import OpenAIEmbedding

    with httpx.Client() as transport:
        embedding = OpenAIEmbedding(
            model_name="routed", api_base=f"{client.base_url}/v1", api_key="none", http_client=transport
        )
        np.testing.assert_allclose(embedding.get_query_embedding(TEXTS[0]), model.encode_query(TEXTS)[0], atol=1e-5)
        batch = embedding.get_text_embedding_batch(TEXTS)
    np.testing.assert_allclose(batch, model.encode_query(TEXTS), atol=1e-5)
