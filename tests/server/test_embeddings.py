"""OpenAI's endpoint for embeddings."""

import base64

import numpy as np
import pytest

from routerretriever import RouterRetriever

TEXTS = ["word1 word2", "word3", "word100 word100 word60 word7 word8 word9"]


@pytest.fixture(scope="module")
def model(built):
    return RouterRetriever.from_pretrained(built / "model", device="cpu")


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


def test_null_means_not_given(client):
    nothing = {"model": None, "input_type": None, "encoding_format": None, "dimensions": None, "user": None}
    answer = embed(client, **nothing)
    assert vectors(answer).tolist() == vectors(embed(client)).tolist()
    assert answer.json()["model"] == "routed"


def test_what_is_not_json_is_said_to_be_so(client):
    answer = client.post("/v1/embeddings", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json"


def test_models_are_all_candidates(client):
    names = [entry["id"] for entry in client.get("/v1/models").json()["data"]]
    assert names == ["routed", "base", "merged", "alpha", "beta", "gamma"]


def test_token_ids_are_used_as_they_are(client, model):
    """With or without special tokens; an unknown token stays."""
    tokenizer = model.encoder.tokenizer
    texts = ["word1 nothing-of-the-vocabulary word2", "word3"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    bare = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert tokenizer.unk_token_id in ids[0]
    for given in (ids, bare):
        np.testing.assert_allclose(vectors(embed(client, input=given)), model.encode_query(texts), atol=1e-5)
        documents = vectors(embed(client, input=given, input_type="document"))
        np.testing.assert_allclose(documents, model.encode_document(texts), atol=1e-5)
