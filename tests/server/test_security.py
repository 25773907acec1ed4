"""Keys, hosts, sizes, headers, and what a log may hold."""

import logging
from dataclasses import replace

import pytest
from serving import ADMIN_KEY, API_KEY, running, wait_until_ready

from routerretriever.errors import ServerError
from routerretriever.server import Limits, Settings, read_keys

READS = [("POST", "/v1/embeddings"), ("POST", "/v1/search"), ("POST", "/v1/route"), ("GET", "/v1/map")]
READS += [("GET", "/v1/models"), ("GET", "/v1/experts"), ("GET", "/metrics")]
CHANGES = [
    ("POST", "/v1/documents"),
    ("DELETE", "/v1/documents"),
    ("POST", "/v1/experts"),
    ("DELETE", "/v1/experts/x"),
]


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def locked(built):
    settings = Settings(
        model=built / "model", index=str(built / "index"), api_keys=(API_KEY,), admin_keys=(ADMIN_KEY,)
    )
    with running(settings) as client:
        yield wait_until_ready(client)


@pytest.mark.parametrize(("method", "path"), READS + CHANGES)
@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer(API_KEY[:-1]), {"Authorization": API_KEY}, bearer("é")]
)
def test_nothing_answers_without_a_key(locked, method, path, headers):
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = locked.request(method, path, headers=headers, json={})
    assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_a_reading_key_changes_nothing(locked, method, path):
    answer = locked.request(method, path, headers=bearer(API_KEY), json={})
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "not_admin"


def test_either_key_reads_and_the_page_needs_none(locked):
    for key in (API_KEY, ADMIN_KEY):
        assert locked.get("/v1/models", headers=bearer(key)).status_code == 200
    for path in ("/health", "/ready", "/openapi.json"):
        assert locked.get(path).status_code == 200


def test_without_admin_keys_nobody_changes_anything(client):
    for method, path in CHANGES:
        answer = client.request(method, path, json={})
        assert answer.status_code == 403 and "--admin-key-file" in answer.json()["error"]["message"]


def test_another_host_name_is_refused_while_no_key_is_set(client, locked):
    for host in ("evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", ""):
        answer = client.get("/v1/models", headers={"Host": host})
        assert answer.status_code == 400, host
    for host in ("localhost:99", "localhost", "127.0.0.1", "[::1]", "[::1]:8080"):
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200, host
    assert locked.get("/v1/models", headers={"Host": "search.example", **bearer(API_KEY)}).status_code == 200


def test_an_open_address_needs_a_key(tmp_path):
    for host in ("0.0.0.0", "::", "192.168.1.5", "search.example"):
        with pytest.raises(ServerError, match="--api-key-file"):
            Settings(model=tmp_path, host=host)
        assert Settings(model=tmp_path, host=host, api_keys=(API_KEY,)).host == host
    assert Settings(model=tmp_path, host="[::1]").host == "::1"
    for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"):
        assert Settings(model=tmp_path, host=host).is_loopback


@pytest.mark.parametrize(
    "content", ["", "# only a remark\n", "short\n", "has a space in it somewhere\n", None]
)
def test_a_key_file_that_cannot_be_used(tmp_path, content):
    if content is not None:
        (tmp_path / "keys").write_text(content)
    with pytest.raises(ServerError, match="key"):
        read_keys(tmp_path / "keys")


def test_a_key_file_has_a_key_a_line(tmp_path):
    (tmp_path / "keys").write_text(f"# team\n{API_KEY}\n\n{ADMIN_KEY}\n")
    assert read_keys(tmp_path / "keys") == (API_KEY, ADMIN_KEY)
    assert read_keys(None) == ()


def test_bodies_over_the_limit_are_not_read(own):
    settings = replace(own, limits=Limits(body_bytes=1000, adapter_bytes=2000))
    with running(settings) as client:
        wait_until_ready(client)
        client.headers.update(bearer(ADMIN_KEY))
        assert client.post("/v1/embeddings", json={"input": "x" * 900}).status_code == 200
        assert client.post("/v1/embeddings", json={"input": "x" * 1100}).status_code == 413

        def chunks():  # no length is announced
            yield b'{"input": "'
            for _ in range(100):
                yield b"x" * 100
            yield b'"}'

        answer = client.post("/v1/embeddings", content=chunks(), headers={"content-type": "application/json"})
        assert answer.status_code == 413 and answer.json()["error"]["message"]
        files = {"config": ("c", b"{}"), "weights": ("w", b"0" * 3000)}
        assert client.post("/v1/experts", data={"name": "x"}, files=files).status_code == 413
        assert client.get("/health").status_code == 200


def test_every_answer_has_the_policy_of_the_page(client):
    for path in ("/", "/health", "/nothing", "/v1/models"):
        policy = client.get(path).headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert client.get(path).headers["X-Content-Type-Options"] == "nosniff"


def test_paths_do_not_leave_the_pages_folder(client):
    for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page//etc/passwd"):
        assert client.get(path).status_code == 404


def test_failures_keep_their_reasons_to_the_log(client, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(client.engine.model, "encode_routed", broken)
    answer = client.post("/v1/embeddings", json={"input": "x"})
    assert answer.status_code == 500 and "secret" not in answer.text and "Traceback" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret detail" in caplog.text
    monkeypatch.undo()
    assert client.post("/v1/embeddings", json={"input": "x"}).status_code == 200


@pytest.mark.parametrize("asked", [False, True])
def test_logs_hold_no_keys_and_queries_only_when_asked(own, caplog, asked):
    caplog.set_level(logging.DEBUG)
    with running(replace(own, log_queries=asked)) as client:
        wait_until_ready(client)
        client.post("/v1/embeddings", json={"input": "word7 private"}, headers=bearer(API_KEY))
        client.post(
            "/v1/search", json={"query": "word7 private"}, headers=bearer("a-wrong-key-somebody-tried")
        )
        client.post("/v1/search", json={"query": "word7 private", "k": 0}, headers=bearer(API_KEY))
    assert (caplog.text.count("private") == 1) is asked
    server = "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore")))
    assert API_KEY not in server and "a-wrong-key" not in server
