"""Search, routes, the map, documents."""

import json
import shutil
import threading
from dataclasses import replace

import pytest
from cross_encoders import make_cross_encoder
from serving import ADMIN_KEY, API_KEY, running, wait_until_ready

from routerretriever import Index, RouterRetriever
from routerretriever.feedback.log import read_log
from routerretriever.server import Settings
from routerretriever.server.settings import Limits

QUERY = "word100 word100 word60"


def test_search_finds_what_the_index_finds(client, built):
    index = Index.open(built / "index", RouterRetriever.from_pretrained(built / "model", device="cpu"))
    for expert in (None, "base", "beta"):
        answer = client.post("/v1/search", json={"query": [QUERY, "word3"], "k": 4, "expert": expert}).json()
        for query, result in zip([QUERY, "word3"], answer["results"], strict=True):
            hits = index.search(query, k=4, expert=expert)
            assert [hit["id"] for hit in result["hits"]] == [hit.id for hit in hits]
            assert result["expert"] == (expert or index.model.route(query)[0].expert)


def test_a_filter_holds_and_metadata_comes_back(client):
    body = {"query": QUERY, "filter": {"year": {"gte": 1990}, "draft": True}}
    (hit,) = client.post("/v1/search", json=body).json()["results"][0]["hits"]
    assert (hit["id"], hit["collection"], hit["metadata"]) == ("y", "dated", {"year": 1999, "draft": True})
    body = {
        "query": QUERY,
        "k": 100,
        "filter": {"not": {"or": [{"collection": "alpha"}, {"id": {"in": ["y"]}}]}},
    }
    hits = client.post("/v1/search", json=body).json()["results"][0]["hits"]
    assert {hit["collection"] for hit in hits} == {"beta"}


def test_more_documents_than_a_block_of_the_index(built, tmp_path):
    folder = shutil.copytree(built, tmp_path / "own")
    settings = Settings(
        model=folder / "model",
        index=str(folder / "index"),
        admin_keys=(ADMIN_KEY,),
        limits=Limits(documents=5000),
    )
    with running(settings) as client:
        documents = [{"id": f"many{n}", "text": "word1"} for n in range(4100)]
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        body = {"collection": "many", "documents": documents}
        answer = wait_until_ready(client).post("/v1/documents", json=body, headers=headers)
        assert (answer.status_code, answer.json().get("written")) == (200, 4100), answer.text[:300]


def test_a_filter_finds_documents_without_a_field(client):
    def found(condition):
        hits = client.post("/v1/search", json={"query": QUERY, "k": 100, "filter": condition}).json()[
            "results"
        ][0]["hits"]
        return {hit["id"] for hit in hits}

    assert found({"year": {"exists": True}}) == {"y"}
    assert "y" not in found({"year": {"exists": False}}) != set()


@pytest.mark.parametrize(
    "condition",
    [
        {"year": {"exists": 1}},
        {"nothing": 1},
        {"year": "1999"},
        {"year": {"near": 1}},
        {"year": {"in": []}},
        {"vector": [1.0]},
        {"year": {"gt": None}},
        {"and": []},
        {},
        {"year = 1 OR 1": 1},
    ],
)
def test_a_filter_that_cannot_be_understood(client, condition):
    answer = client.post("/v1/search", json={"query": QUERY, "filter": condition})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "filter"


@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
def test_an_expert_that_does_not_exist_is_refused_in_every_mode(client, mode):
    answer = client.post("/v1/search", json={"query": QUERY, "expert": "nobody", "mode": mode})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_k_and_unknown_fields_are_checked(client):
    for body in ({"k": 0}, {"k": 10**6}, {"where": "1=1"}):
        assert client.post("/v1/search", json={"query": QUERY, **body}).status_code == 422


@pytest.mark.parametrize("path", ["/v1/search", "/v1/route"])
@pytest.mark.parametrize(
    ("query", "where"),
    [
        ("", "'query': The query is empty."),
        (" ", "'query': The query is empty."),
        (["word1", "word2", ""], "'query', item 3: The query is empty."),
        (["word1", 5], "'query', item 2: Input should be a valid string."),
        (7, "'query': Input should be a valid string."),
    ],
)
def test_a_wrong_query_is_named_with_its_place(client, path, query, where):
    answer = client.post(path, json={"query": query})
    assert answer.status_code == 422
    problem = answer.json()["error"]
    assert problem["param"] == "query" and problem["message"].startswith(where)


def post(client, path, body):
    """As a client that writes half of a surrogate pair as JSON can spell it."""
    return client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/v1/search", {"query": ["word1", "a\ud800"]}, "'query', item 2: it holds half"),
        ("/v1/route", {"query": "a\ud800"}, "'query': it holds half"),
        ("/v1/embeddings", {"input": ["a", "\udfff"]}, "'input', item 2: it holds half"),
        ("/v1/search", {"query": "word1", "expert": "\ud800"}, "'expert': it holds half"),
        ("/v1/search", {"query": "word1", "filter": {"title": "\ud800"}}, "'filter': it holds half"),
    ],
)
def test_half_a_surrogate_pair_is_refused_with_its_place(client, path, body, where):
    answer = post(client, path, body)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(where)


def test_an_error_may_quote_half_a_surrogate_pair(client):
    assert post(client, "/v1/search", {"query": "word1", "\ud800": 1}).status_code == 422


def test_documents_with_half_a_surrogate_pair_are_refused_with_their_place(admin):
    for wrong in (
        {"text": "\ud800"},
        {"title": "\ud800"},
        {"id": "\ud800"},
        {"metadata": {"year": "\ud800"}},
    ):
        documents = [{"id": "ok", "text": "word1"}, {"id": "bad", "text": "word1"} | wrong]
        answer = post(admin, "/v1/documents", {"documents": documents})
        assert answer.status_code == 422
        assert answer.json()["error"]["message"].startswith(
            f"'documents', item 2, '{next(iter(wrong))}': it holds"
        )


def test_a_route_is_the_models_own(client, built):
    model = RouterRetriever.from_pretrained(built / "model", device="cpu")
    (shown,) = client.post("/v1/route", json={"query": QUERY, "pilots": 3}).json()["routes"]
    route = model.route(QUERY, n_pilots=3)[0]
    assert (shown["expert"], shown["reason"], shown["abstained"]) == (
        route.expert,
        route.reason,
        route.abstained,
    )
    assert shown["gains"] == pytest.approx(route.gains, abs=2e-4)
    assert [pilot["example"] for pilot in shown["pilots"]] == [pilot.example for pilot in route.pilots]


def test_the_map_shows_pilots_and_places_queries(client):
    points = client.get("/v1/map").json()["points"]
    assert {point["collection"] for point in points} == {"alpha", "beta"}
    assert all(abs(point[axis]) <= 1 for point in points for axis in "xy")
    assert {point["measured"] for point in points} == {True, False}
    twin = next(point for point in points if point["measured"])
    (route,) = client.post("/v1/route", json={"query": twin["example"]}).json()["routes"]
    x, y = route["position"]
    nearest = min(points, key=lambda point: (point["x"] - x) ** 2 + (point["y"] - y) ** 2)
    assert nearest["collection"] == twin["collection"]


def test_without_an_index_or_library_it_says_what_is_missing(built, tmp_path):
    model = RouterRetriever.create(str(built / "base"), device="cpu")
    model.save_pretrained(tmp_path / "bare")
    with running(Settings(model=tmp_path / "bare")) as client:
        wait_until_ready(client)
        search = client.post("/v1/search", json={"query": QUERY})
        assert search.status_code == 400 and search.json()["error"]["code"] == "no_index"
        for answer in (client.post("/v1/route", json={"query": QUERY}), client.get("/v1/map")):
            assert answer.status_code == 400 and answer.json()["error"]["code"] == "no_library"
        assert client.get("/v1/experts").json()["documents"] is None
        assert client.post("/v1/embeddings", json={"input": "word1"}).json()["data"][0]["expert"] == "base"


def test_until_the_model_is_there_it_is_not_ready(built, monkeypatch):
    let_go = threading.Event()
    whole = RouterRetriever.from_pretrained
    monkeypatch.setattr(
        RouterRetriever, "from_pretrained", lambda *a, **k: let_go.wait(10) and whole(*a, **k)
    )
    with running(Settings(model=built / "model")) as client:
        assert client.get("/health").status_code == 200
        for path in ("/ready", "/v1/models"):
            answer = client.get(path)
            assert answer.status_code == 503 and "Retry-After" in answer.headers
        let_go.set()
        wait_until_ready(client)


def test_a_model_that_cannot_be_loaded_is_explained(built, tmp_path):
    with running(Settings(model=built / "model", index=str(tmp_path / "nothing"))) as client:
        for _ in range(200):
            if "There is no index" in client.get("/ready").text:
                break
            threading.Event().wait(0.05)
        assert client.get("/ready").status_code == 503
        assert "There is no index" in client.get("/v1/models").json()["error"]["message"]


def test_documents_come_and_go(admin, own):
    documents = [{"id": f"n{k}", "text": f"word{k} word77", "metadata": {"size": k}} for k in range(20)]
    answer = admin.post("/v1/documents", json={"collection": "new", "documents": documents})
    assert answer.json()["written"] == 20
    body = {"query": "word77", "k": 30, "filter": {"collection": "new", "size": {"lt": 5}}}
    hits = admin.post("/v1/search", json=body).json()["results"][0]["hits"]
    assert {hit["id"] for hit in hits} == {f"n{k}" for k in range(5)}
    answer = admin.request(
        "DELETE", "/v1/documents", json={"collection": "new", "ids": ["n1", "n2", "unknown"]}
    )
    assert answer.json()["deleted"] == 2
    hits = admin.post("/v1/search", json=body).json()["results"][0]["hits"]
    assert {hit["id"] for hit in hits} == {"n0", "n3", "n4"}
    assert len(Index.open(own.index)) == answer.json()["documents"]


def test_null_means_not_given(admin):
    entry = {"id": "n1", "text": "word1", "title": None, "metadata": {"year": 1990, "lang": None}}
    written = admin.post("/v1/documents", json={"collection": None, "documents": [entry]})
    assert written.status_code == 200, written.text
    other = {"id": "n2", "text": "word1", "metadata": None}
    assert admin.post("/v1/documents", json={"documents": [other]}).status_code == 200
    names = ("k", "expert", "filter", "exact", "mode", "rerank", "min_relevance")
    search = {"query": "word1", **dict.fromkeys(names)}
    assert admin.post("/v1/search", json=search).status_code == 200
    found = admin.post("/v1/search", json=search | {"filter": {"year": 1990}}).json()["results"][0]["hits"]
    assert [(hit["id"], hit["title"], hit["metadata"]) for hit in found] == [("n1", "", {"year": 1990})]
    assert admin.post("/v1/route", json={"query": "word1", "pilots": None}).status_code == 200
    gone = admin.request("DELETE", "/v1/documents", json={"collection": None, "ids": ["n1", "n2"]})
    assert gone.json()["deleted"] == 2


def test_what_cannot_be_stored_is_refused_whole(admin):
    before = admin.get("/v1/experts").json()["documents"]
    for metadata in ({"ye.ar": 1}, {"text": "x"}, {"year": "later"}):
        documents = [{"id": "ok", "text": "word1"}, {"id": "bad", "text": "word1", "metadata": metadata}]
        answer = admin.post("/v1/documents", json={"documents": documents})
        assert answer.status_code == 400, answer.text
    assert (
        admin.post("/v1/documents", json={"documents": [{"id": "a", "text": "b"}] * 1001}).status_code == 413
    )
    assert admin.get("/v1/experts").json()["documents"] == before


def test_a_request_may_have_as_many_documents_as_the_limit_says(own):
    count = 4100  # more than the index writes at a time, and more than the texts of one request
    with running(replace(own, limits=replace(own.limits, documents=count, inputs=10))) as client:
        wait_until_ready(client)
        client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        documents = [{"id": f"n{number}", "text": f"word{number % 50}"} for number in range(count)]
        answer = client.post("/v1/documents", json={"collection": "many", "documents": documents})
        assert answer.json().get("written") == count, answer.text
        body = {"query": "word7", "k": 10, "expert": "base", "filter": {"collection": "many"}}
        hits = client.post("/v1/search", json=body).json()["results"][0]["hits"]
        assert {hit["text"] for hit in hits} == {"word7"}


def test_words_and_both(own, built):
    index = Index.open(own.index, RouterRetriever.from_pretrained(built / "model", device="cpu"))
    condition = {"collection": "beta"}
    with running(own) as client:
        wait_until_ready(client)
        client.headers["Authorization"] = f"Bearer {own.api_keys[0]}"
        for mode in ("vector", "text", "hybrid"):
            body = {"query": ["word60 word3", 'the ( " of'], "k": 5, "mode": mode, "filter": condition}
            results = client.post("/v1/search", json=body).json()["results"]
            for result in results:
                hits = index.search(result["query"], 5, mode=mode, where=condition)
                assert [hit["id"] for hit in result["hits"]] == [hit.id for hit in hits]
                assert (result["expert"] is None) == (mode == "text")
        assert len(results[0]["hits"]) == 5


def test_words_and_vectors_are_the_default_and_their_weight_is_said(client):
    both, vectors = (
        client.post("/v1/search", json={"query": QUERY, "mode": mode}).json()["results"][0]
        for mode in (None, "vector")
    )
    assert (both["mode"], vectors["mode"], vectors["vector_weight"]) == ("hybrid", "vector", None)
    assert 0 < both["vector_weight"] <= 1
    route = client.post("/v1/route", json={"query": QUERY}).json()["routes"][0]
    assert route["vector_weight"] == both["vector_weight"] and route["words_reason"]


def test_without_a_text_index_words_are_refused(own, built):
    Index.open(own.index).drop_text_index()
    with running(own) as client:
        wait_until_ready(client)
        client.headers["Authorization"] = f"Bearer {own.api_keys[0]}"
        for mode in ("text", "hybrid"):
            answer = client.post("/v1/search", json={"query": QUERY, "mode": mode})
            assert answer.status_code == 400
            assert "index build INDEX --text" in answer.json()["error"]["message"]
        assert client.post("/v1/search", json={"query": QUERY}).json()["results"][0]["mode"] == "vector"


def test_a_reranker_orders_the_hits(own, checkpoint, tmp_path):
    folder = make_cross_encoder(checkpoint, tmp_path / "reranker")
    with running(replace(own, rerank=str(folder))) as client:
        wait_until_ready(client)
        client.headers["Authorization"] = f"Bearer {own.api_keys[0]}"
        body = {"query": QUERY, "rerank": True, "k": 5}
        hits = client.post("/v1/search", json=body).json()["results"][0]["hits"]
        relevances = [hit["relevance"] for hit in hits]
        assert len(hits) == 5 and relevances == sorted(relevances, reverse=True)
        least = client.post("/v1/search", json={**body, "min_relevance": relevances[1]})
        assert len(least.json()["results"][0]["hits"]) == 2


def test_what_cannot_be_reranked_or_left_out_is_refused(client):
    answer = client.post("/v1/search", json={"query": QUERY, "rerank": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_reranker")
    answer = client.post("/v1/search", json={"query": QUERY, "min_relevance": 2})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "min_relevance")


def test_no_other_mode_exists(client):
    assert client.post("/v1/search", json={"query": QUERY, "mode": "words"}).status_code == 422


def test_feedback_is_kept_as_the_command_reads_it(own, tmp_path):
    log = tmp_path / "feedback.jsonl"
    limits = replace(own.limits, feedback_bytes=400)
    with running(replace(own, feedback_log=log, limits=limits)) as client:
        wait_until_ready(client)
        entry = {"query": "word5", "shown": [{"id": "d1", "collection": "alpha"}], "clicked": []}
        assert client.post("/v1/feedback", json=entry).status_code == 401
        client.headers["Authorization"] = f"Bearer {API_KEY}"
        fingerprint = client.post("/v1/search", json={"query": "word5"}).json()["fingerprint"]
        entry["fingerprint"] = fingerprint
        assert client.post("/v1/feedback", json=entry).json() == {"status": "noted"}
        for wrong in ({"clicked": [{"id": "d2"}]}, {"clicked": None}, {"fingerprint": "x"}, {"query": " "}):
            answer = client.post("/v1/feedback", json=entry | wrong)
            assert (answer.status_code, "cannot be used" in answer.text) == (422, True)
        found = read_log(log, fingerprint, Index.open(own.index).lookup)
        assert (len(found.events), found.problems) == (1, ())
        answers = [client.post("/v1/feedback", json=entry) for _ in range(3)]
        assert [answer.status_code for answer in answers][-1] == 503
        assert answers[-1].json()["error"]["code"] == "feedback_full"
        assert log.stat().st_size <= 400
        assert log.stat().st_mode & 0o777 == 0o600
        assert not found.problems and log.read_bytes().endswith(b"\n")


def test_without_a_log_feedback_is_refused(client):
    entry = {"query": "word5", "shown": [{"id": "d1"}], "clicked": []}
    answer = client.post("/v1/feedback", json=entry)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_feedback_log")
