"""Two teams on one server: each endpoint is attacked with the names of the other."""

import json
import shutil
from dataclasses import replace

import pytest
from clients import upload
from fastapi import APIRouter
from fastapi.routing import APIRoute
from serving import ADMIN_KEY, API_KEY, running, wait_until_ready
from starlette.routing import Mount, Route

from routerretriever import RouterRetriever
from routerretriever.data.document import Document
from routerretriever.errors import ServerError
from routerretriever.index.index import Index
from routerretriever.server import Settings, create_app, read_key_file
from routerretriever.server.app import ROUTERS, health
from routerretriever.server.guard import check_declared

RED, BLUE, GUEST = "the-key-of-the-red-team", "the-key-of-the-blue-team", "the-key-of-the-guests"
NOTHING = "the-key-that-only-encodes"
NOBODY = "zzzz"
"""A name that nothing has; as long as the others, so that texts of errors have one length."""
HIDDEN = ("beta", "gamma", "dated", "secret_field")
KEYS = f"""
[[key]]
name = "red"
secret = "{RED}"
collections = ["alpha"]
experts = ["alpha"]
new_experts = ["delta"]
write = ["documents", "experts", "feedback"]

[[key]]
name = "blue"
secret = "{BLUE}"
collections = ["beta", "dated"]
experts = ["beta", "gamma"]
write = ["documents", "experts", "feedback"]

[[key]]
name = "guest"
secret = "{GUEST}"
collections = "*"
experts = "*"
filter = {{ draft = true }}

[[key]]
name = "encodes"
secret = "{NOTHING}"
collections = []
experts = []
"""


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def settings_in(root, built, index=None):
    shutil.copytree(built / "model", root / "model")
    (root / "keys.toml").write_text(KEYS)
    return Settings(
        model=root / "model",
        index=index or str(root / "index"),
        keys=read_key_file(root / "keys.toml"),
        api_keys=(API_KEY,),
        admin_keys=(ADMIN_KEY,),
        feedback_log=root / "feedback.jsonl",
    )


SECRETS = [Document("s", "word9 word8", "", {"secret_field": "blue", "draft": False})]


@pytest.fixture(scope="module")
def served(built, tmp_path_factory):
    root = tmp_path_factory.mktemp("teams")
    shutil.copytree(built / "index", root / "index")
    model = RouterRetriever.from_pretrained(built / "model", device="cpu")
    index = Index.open(root / "index", model)
    index.upsert(SECRETS, collection="dated")
    index.upsert([Document("plan.md", "word7")], collection="beta")
    (root / "beta").mkdir()  # the folder has the name of its collection
    for name in ("plan.md", "unread.md"):
        (root / "beta" / name).write_text("the plan of the blue team")
    with running(replace(settings_in(root, built), files=root / "beta")) as client:
        yield wait_until_ready(client)


def strings(content):
    """Every text in plain data, keys too."""
    if isinstance(content, dict):
        return set(content) | {text for value in content.values() for text in strings(value)}
    if isinstance(content, list):
        return {text for value in content for text in strings(value)}
    return {content} if isinstance(content, str) else set()


# -- every endpoint has a test here --------------------------------------------------------------------

PUBLIC = {("GET", "/"), ("GET", "/health"), ("GET", "/ready")}


def query(**changes):
    return {"json": {"query": "word1 word2", **changes}}


def feedback(collection):
    return {"json": {"query": "word1", "shown": [{"id": "d1", "collection": collection}], "clicked": []}}


ATTACKS = {
    ("POST", "/v1/search"): [
        lambda name: query(expert=name),
        lambda name: query(expert=name, mode="text"),
        lambda name: query(filter={"collection": name}),
        lambda name: query(filter={"or": [{"collection": name}, {"collection": {"ne": name}, "id": name}]}),
        lambda name: query(filter={name: "blue"}),
        lambda name: query(filter={"not": {name: {"exists": True}}}),
        lambda name: query(filter={"collection": name}, mode="text", passages=True, exact=True),
    ],
    ("POST", "/v1/embeddings"): [
        lambda name: {"json": {"input": "word1", "model": name}},
        lambda name: {"json": {"input": "word1", "model": name, "input_type": "document"}},
    ],
    ("GET", "/v1/models"): [],
    ("GET", "/v1/experts"): [],
    ("POST", "/v1/route"): [],
    ("GET", "/v1/map"): [],
    ("POST", "/v1/feedback"): [feedback],
    ("POST", "/v1/documents"): [
        lambda name: {"json": {"collection": name, "documents": [{"id": "x", "text": "word1"}]}}
    ],
    ("DELETE", "/v1/documents"): [lambda name: {"json": {"collection": name, "ids": ["d1", "y", "s"]}}],
    ("POST", "/v1/experts"): [
        lambda name: {
            "data": {"name": name},
            "files": {"config": ("c", b"{}"), "weights": ("w", b"0")},
        }
    ],
    ("DELETE", "/v1/experts/{name}"): [lambda name: {"url": f"/v1/experts/{name}"}],
    ("GET", "/metrics"): [],
    ("GET", "/v1/shadow"): [],
    ("GET", "/v1/files"): [],
    ("POST", "/v1/files"): [
        lambda name: {"data": {"collection": name}, "files": [("files", ("a.md", b"word1"))]},
    ],
    ("GET", "/files/{name}"): [],
    ("HEAD", "/files/{name}"): [],
}


def test_every_endpoint_says_what_it_needs_and_is_attacked_here(built):
    application = create_app(Settings(model=built / "model"))
    found = set()
    for router in (health, *ROUTERS):
        assert all(isinstance(route, APIRoute) for route in router.routes)
        found |= {(method, route.path_format) for route in router.routes for method in route.methods}
    assert found == PUBLIC | ATTACKS.keys(), "declare what a new endpoint needs, and attack it in this file"

    # Nothing is there besides, neither of routers that are not checked nor of the application itself.
    assert set(application.openapi()["paths"]) | {"/"} == {path for _, path in found}
    own = {route.path for route in application.routes if isinstance(route, (Route, Mount))}
    assert own - {path for _, path in found} == {"/openapi.json", "/page"}


def test_an_endpoint_that_declares_nothing_does_not_start():
    router = APIRouter()

    @router.get("/v1/new")
    def new():
        """Answer."""

    with pytest.raises(ServerError, match="/v1/new must say once what it needs"):
        check_declared(router.routes)


@pytest.mark.parametrize(
    ("endpoint", "attack"), [(endpoint, attack) for endpoint, each in ATTACKS.items() for attack in each]
)
def test_what_others_have_is_answered_as_what_nobody_has(served, endpoint, attack):
    method, path = endpoint

    def ask(name):
        request = attack(name)
        url = request.pop("url", path)
        answer = served.request(method, url, headers=bearer(RED), **request)
        shown = answer.text.replace(name, NOBODY)
        return answer.status_code, shown, set(answer.headers) - {"content-length"}

    nobody = ask(NOBODY)
    for name in HIDDEN:
        assert ask(name) == nobody, name
    for name in HIDDEN:
        assert name not in nobody[1]


@pytest.mark.parametrize("method", ["get", "post"])
def test_listings_maps_and_routes_show_nothing_of_others(served, method):
    library = served.engine.model.state.library
    theirs = {e for e, s in zip(library.examples, library.sources, strict=True) if s == "beta"}
    ours = {e for e, s in zip(library.examples, library.sources, strict=True) if s == "alpha"}
    for path, body in [
        ("/v1/models", None),
        ("/v1/experts", None),
        ("/v1/map", None),
        ("/v1/files?limit=200", None),
        ("/v1/route", {"query": [*theirs, "word1 word2"], "pilots": 50}),
        ("/v1/search", {"query": [*theirs, "word1 word2"], "k": 1000}),
        ("/v1/embeddings", {"input": sorted(theirs)}),
    ]:
        if (body is None) is not (method == "get"):
            continue
        answer = served.request(method, path, headers=bearer(RED), **({"json": body} if body else {}))
        assert answer.status_code == 200, answer.text
        told = answer.json()
        for row in [*told.get("routes", ()), *told.get("results", ())]:
            row.pop("query")  # is what was asked
        found = strings(told)
        assert not found & set(HIDDEN), path
        assert not found & (theirs - ours), path
        assert not any(name in text for name in ("beta", "gamma", "dated") for text in found), path
        assert "merged" not in found, path


def test_counts_are_those_of_the_own_documents(served):
    def documents(key):
        return served.get("/v1/experts", headers=bearer(key)).json()["documents"]

    red, blue, everything = documents(RED), documents(BLUE), documents(ADMIN_KEY)
    assert red + blue == everything and red == len(served.engine.documents._index) - blue
    assert documents(GUEST) == 1


def test_what_one_team_asks_is_no_figure_of_the_other(served):
    def asked(key, name):
        told = served.get("/v1/experts", headers=bearer(key)).json()
        of_experts = {entry["name"]: entry["served_last_hour"] for entry in told["experts"]}
        return {**of_experts, **told["others_last_hour"]}[name]

    before = [asked(key, "base") for key in (RED, BLUE, ADMIN_KEY)]
    body = {"input": ["word1"] * 3, "model": "base"}
    assert served.post("/v1/embeddings", json=body, headers=bearer(BLUE)).status_code == 200
    after = [asked(key, "base") for key in (RED, BLUE, ADMIN_KEY)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [0, 3, 3]


def test_metrics_are_for_keys_without_a_scope(served):
    for key in (RED, BLUE, GUEST):
        answer = served.get("/metrics", headers=bearer(key))
        assert answer.status_code == 403 and "routerretriever_" not in answer.text
    for key in (API_KEY, ADMIN_KEY):
        assert "routerretriever_queries" in served.get("/metrics", headers=bearer(key)).text


def test_search_finds_the_own_documents_whatever_is_asked(served):
    asked = [
        {},
        {"filter": {"collection": {"ne": "alpha"}}},
        {"filter": {"or": [{"collection": "beta"}, {"id": {"exists": True}}]}},
        {"filter": {"not": {"collection": "alpha"}}},
        {"mode": "text"},
        {"exact": True, "mode": "vector"},
        {"expert": "base"},
        {"passages": True},
    ]
    for options in asked:
        answer = served.post("/v1/search", headers=bearer(RED), **query(k=1000, **options))
        assert answer.status_code == 200, answer.text
        hits = answer.json()["results"][0]["hits"]
        assert {hit["collection"] for hit in hits} <= {"alpha"}, options
    hits = served.post("/v1/search", headers=bearer(ADMIN_KEY), **query(k=1000)).json()["results"][0]["hits"]
    assert {hit["collection"] for hit in hits} == {"alpha", "beta", "dated"}


def test_an_enforced_filter_holds_beside_what_is_asked(served):
    for asked in (
        None,
        {"draft": False},
        {"or": [{"draft": True}, {"draft": False}]},
        {"collection": "dated"},
    ):
        answer = served.post("/v1/search", headers=bearer(GUEST), **query(k=1000, filter=asked))
        found = {hit["id"] for hit in answer.json()["results"][0]["hits"]}
        assert found <= {"y"} and (found or asked == {"draft": False})
    refused = served.post("/v1/search", headers=bearer(GUEST), **query(filter={"secret_field": "blue"}))
    assert refused.status_code == 400 and "no field 'secret_field'" in refused.text


def test_a_key_without_collections_and_experts_encodes_by_the_base(served):
    headers = bearer(NOTHING)
    for asked in (None, {"collection": "alpha"}, {"not": {"collection": "alpha"}}):
        answer = served.post("/v1/search", headers=headers, **query(k=1000, filter=asked))
        assert answer.status_code == 200 and answer.json()["results"][0]["hits"] == []
    told = served.get("/v1/experts", headers=headers).json()
    assert (told["documents"], told["experts"], told["collections"]) == (0, [], [])
    encoded = served.post("/v1/embeddings", json={"input": "word1"}, headers=headers).json()["data"]
    assert encoded[0]["expert"] == "base"
    assert served.post("/v1/route", headers=headers, json={"query": "word1"}).status_code == 400


def test_pilots_are_not_shown_beside_a_filter(served):
    told = served.post("/v1/route", headers=bearer(GUEST), json={"query": "word1 word2"}).json()["routes"]
    assert told[0]["pilots"] == [] and told[0]["gains"]
    answer = served.get("/v1/map", headers=bearer(GUEST))
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "no_library"


def test_a_field_of_the_own_documents_can_be_filtered_by(served):
    answer = served.post("/v1/search", headers=bearer(BLUE), **query(k=1000, filter={"secret_field": "blue"}))
    assert [hit["id"] for hit in answer.json()["results"][0]["hits"]] == ["s"]
    refused = served.post("/v1/search", headers=bearer(BLUE), **query(filter={"secret_field": 1}))
    assert refused.status_code == 400 and "holds values of type" in refused.text
    nobody = served.post("/v1/search", headers=bearer(RED), **query(filter={"secret_field": 1}))
    assert "no field 'secret_field'" in nobody.text and "year" not in nobody.text


def test_a_batch_mixes_keys(served):
    """Many threads ask at once; every answer is that of its own key alone."""
    from concurrent.futures import ThreadPoolExecutor

    allowed = {
        RED: {"base", "alpha"},
        BLUE: {"base", "beta", "gamma"},
        API_KEY: {"base", "merged", "alpha", "beta", "gamma"},
    }
    texts = [f"word{number} word{2 * number}" for number in range(30)]

    def ask(job):
        key, text = job
        answer = served.post("/v1/embeddings", json={"input": text}, headers=bearer(key)).json()
        return key, text, answer["data"][0]["expert"], answer["data"][0]["embedding"]

    jobs = [(key, text) for text in texts for key in allowed]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, jobs))
    for key, text, expert, vector in found:
        assert expert in allowed[key]
        alone = ask((key, text))
        assert alone[2] == expert and alone[3] == pytest.approx(vector, abs=1e-4)
    assert {expert for *_, expert, _ in found} >= {"alpha", "beta"}


def test_documents_are_written_and_deleted_in_the_own_collections_alone(served):
    one = [{"id": "new", "text": "word3 word4"}]
    before = served.get("/v1/experts", headers=bearer(RED)).json()["documents"]
    written = served.post(
        "/v1/documents", json={"collection": "alpha", "documents": one}, headers=bearer(RED)
    )
    assert written.json() == {"written": 1, "documents": before + 1}
    for collection in ("beta", "dated", "", "nothing"):
        for method in ("POST", "DELETE"):
            content = {"documents": one} if method == "POST" else {"ids": ["y", "s", "d1"]}
            answer = served.request(
                method, "/v1/documents", json={"collection": collection, **content}, headers=bearer(RED)
            )
            assert answer.status_code == 403 and answer.json()["error"]["code"] == "not_yours"
    gone = served.request(
        "DELETE",
        "/v1/documents",
        json={"collection": "alpha", "ids": ["new", "y", "s"]},
        headers=bearer(RED),
    )
    assert gone.json() == {"deleted": 1, "documents": before}


def test_files_are_those_of_the_own_collections(served):
    assert served.get("/files/plan.md", headers=bearer(BLUE)).text == "the plan of the blue team"
    nobody = served.get("/files/zzzz.md", headers=bearer(RED))
    for key, name in ((RED, "plan.md"), (GUEST, "plan.md"), (RED, "unread.md"), (BLUE, "unread.md")):
        answer = served.get(f"/files/{name}", headers=bearer(key))
        assert (answer.status_code, answer.text) == (404, nobody.text)
        assert served.head(f"/files/{name}", headers=bearer(key)).status_code == 404
    files_of = [served.get("/v1/files", headers=bearer(key)).json()["files_of"] for key in (RED, BLUE)]
    assert files_of == [None, "beta"]


def test_rights_that_are_not_given(served):
    for method, path in ATTACKS:
        if method in ("GET", "HEAD") or path in ("/v1/search", "/v1/embeddings", "/v1/route"):
            continue
        answer = served.request(method, path.format(name="alpha"), headers=bearer(GUEST), json={})
        assert answer.status_code == 403, (method, path)


def test_feedback_is_about_the_own_collections(served):
    answer = served.post("/v1/feedback", headers=bearer(RED), **feedback("alpha"))
    assert answer.status_code == 201
    for clicked in (
        {"clicked": [{"id": "d1", "collection": "beta"}]},
        {"judged": [{"id": "d1", "grade": 1}]},
    ):
        body = {"query": "word1", "shown": [{"id": "d1", "collection": "alpha"}], **clicked}
        assert served.post("/v1/feedback", headers=bearer(RED), json=body).status_code == 403
    lines = (served.engine.settings.feedback_log).read_text().splitlines()
    assert all(shown["collection"] == "alpha" for line in lines for shown in json.loads(line)["shown"])


def test_experts_come_and_go_within_the_scope(built, tmp_path, adapter_files):
    shutil.copytree(built / "index", tmp_path / "index")
    with running(settings_in(tmp_path, built)) as client:
        wait_until_ready(client)
        client.headers.update(bearer(RED))
        wrong = upload(client, adapter_files, "delta", gains='{"beta": 0.4}')
        nothing = upload(client, adapter_files, "delta", gains='{"zzzz": 0.4}')
        assert wrong.status_code == 400 and wrong.text.replace("beta", "zzzz") == nothing.text
        assert "It knows: alpha." in wrong.json()["error"]["message"]
        assert upload(client, adapter_files, "other").json()["error"]["code"] == "not_yours"

        answer = upload(client, adapter_files, "delta", gains='{"alpha": 0.9}')
        assert answer.status_code == 201, answer.text
        assert [entry["name"] for entry in answer.json()["experts"]] == ["alpha", "delta"]
        known = client.get("/v1/map").json()["points"][0]["example"]
        assert client.post("/v1/embeddings", json={"input": known}).json()["data"][0]["expert"] == "delta"

        # The other team does not learn of it.
        client.headers.update(bearer(BLUE))
        assert "delta" not in client.get("/v1/experts").text + client.get("/v1/models").text
        assert client.post("/v1/embeddings", json={"input": "x", "model": "delta"}).status_code == 404
        assert client.delete("/v1/experts/delta").status_code == 404
        assert client.delete("/v1/experts/gamma").status_code == 200

        client.headers.update(bearer(RED))
        assert client.delete("/v1/experts/delta").status_code == 200


@pytest.mark.slow
def test_documents_in_postgresql_are_kept_apart_as_well(built, tmp_path):
    from postgres import Server

    database = Server(tmp_path / "database")
    try:
        model = RouterRetriever.from_pretrained(built / "model", device="cpu")
        index = Index.create(database.uri(), model)
        for name in ("alpha", "beta"):
            index.upsert([Document("d1", f"word1 {name}"), Document("d2", "word2")], collection=name)
        index.upsert([Document("y", "word9", "", {"draft": True}), *SECRETS], collection="dated")
        index.build_text_index()
        uri = database.uri(index.uri.rpartition("table=")[2])
        with running(settings_in(tmp_path, built, index=uri)) as client:
            wait_until_ready(client)
            for mode in ("vector", "text", "hybrid"):
                for asked in (None, {"not": {"collection": "alpha"}}, {"collection": "beta"}):
                    answer = client.post(
                        "/v1/search", headers=bearer(RED), **query(k=100, mode=mode, filter=asked)
                    )
                    assert answer.status_code == 200, answer.text
                    hits = answer.json()["results"][0]["hits"]
                    assert {hit["collection"] for hit in hits} == (set() if asked else {"alpha"})
            guest = client.post("/v1/search", headers=bearer(GUEST), **query(k=100, mode="vector"))
            assert [hit["id"] for hit in guest.json()["results"][0]["hits"]] == ["y"]
            for name in ("secret_field", NOBODY):
                answer = client.post("/v1/search", headers=bearer(RED), **query(filter={name: "blue"}))
                assert answer.status_code == 400 and "year" not in answer.text
            assert client.get("/v1/experts", headers=bearer(RED)).json()["documents"] == 2
    finally:
        database.close()
