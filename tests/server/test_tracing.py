"""Spans of a real server, sent to a real collector."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from otlp_receiver import attributes_of, receiving
from serving import ADMIN_KEY, only_reading, running, wait_until_ready

from routerretriever.errors import MissingExtraError, ServerError
from routerretriever.server import Settings, check_settings
from routerretriever.server.trace_target import CONSOLE, ENVIRONMENT, trace_target

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = ("queue", "encode", "route", "search")


@pytest.fixture(scope="module")
def collector():
    with receiving() as found:
        yield found


@pytest.fixture(scope="module")
def traced(built, collector):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # milliseconds
        settings = replace(only_reading(built), trace=trace_target(collector.url, {}))
        with running(settings) as client:
            yield wait_until_ready(client)


def spans_of(collector, trace, names):
    deadline = time.monotonic() + 15
    while True:
        found = [span for span in collector.spans if span.trace_id.hex() == trace]
        if set(names) <= {span.name for span in found}:
            return {span.name: span for span in found}
        assert time.monotonic() < deadline, [span.name for span in found]
        time.sleep(0.05)


def parent_of(number, sampled="01"):
    trace = f"{number:032x}"
    return trace, {"traceparent": f"00-{trace}-{PARENT}-{sampled}"}


def test_a_search_is_a_request_with_its_stages(traced, collector):
    trace, headers = parent_of(0x5EA6C4)
    body = {"query": ["word1 word2", "a secret of word3"], "k": 4}
    before = time.time_ns()
    assert traced.post("/v1/search", json=body, headers=headers).status_code == 200
    after = time.time_ns()
    spans = spans_of(collector, trace, ["POST /v1/search", *STAGES])
    request = spans["POST /v1/search"]
    assert request.parent_span_id.hex() == PARENT and request.kind == 2  # SERVER
    for name in ("queue", "encode", "search"):
        assert spans[name].parent_span_id == request.span_id, name
    assert spans["route"].parent_span_id == spans["encode"].span_id

    # Each is within its parent, and they follow each other; clocks are read a few microseconds apart.
    slack = 2_000_000
    for name, parent in (("queue", request), ("encode", request), ("search", request)):
        assert parent.start_time_unix_nano - slack <= spans[name].start_time_unix_nano
        assert spans[name].end_time_unix_nano <= parent.end_time_unix_nano + slack
    assert spans["route"].start_time_unix_nano >= spans["encode"].start_time_unix_nano - slack
    assert spans["route"].end_time_unix_nano <= spans["encode"].end_time_unix_nano + slack
    assert spans["queue"].end_time_unix_nano <= spans["encode"].start_time_unix_nano + slack
    assert spans["encode"].end_time_unix_nano <= spans["search"].start_time_unix_nano + slack
    assert before - slack <= request.start_time_unix_nano
    assert request.end_time_unix_nano <= after + slack
    for span in spans.values():
        assert span.end_time_unix_nano > span.start_time_unix_nano

    asked = attributes_of(request)
    assert asked["http.route"] == "/v1/search" and asked["http.response.status_code"] == 200
    searched = attributes_of(spans["search"])
    assert searched["routerretriever.texts"] == 2 and searched["routerretriever.k"] == 4
    assert searched["routerretriever.index"] == traced.engine.settings.index
    encoded = attributes_of(spans["encode"])
    assert encoded["routerretriever.texts"] == 2 and encoded["routerretriever.tokens"] > 4
    answer = traced.post("/v1/search", json=body).json()["results"]
    experts = sorted({result["expert"] for result in answer})
    assert encoded["routerretriever.experts"] == searched["routerretriever.experts"] == experts


def test_the_texts_of_a_batch_are_told_apart_from_those_of_a_request(traced, collector):
    jobs = [parent_of(0xBA7C400 + number) for number in range(8)]

    def ask(job):
        return traced.post("/v1/embeddings", json={"input": ["word1", "word2"]}, headers=job[1]).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, jobs)) == {200}
    for trace, _ in jobs:
        encoded = attributes_of(spans_of(collector, trace, ["POST /v1/embeddings", "encode"])["encode"])
        assert encoded["routerretriever.texts"] <= 2 <= encoded["routerretriever.batch_texts"] + 1


def test_documents_are_not_routed_and_words_alone_not_encoded(traced, collector):
    trace, headers = parent_of(0xD0C)
    body = {"input": "word1", "input_type": "document"}
    traced.post("/v1/embeddings", json=body, headers=headers)
    spans = spans_of(collector, trace, ["POST /v1/embeddings", "encode"])
    assert "route" not in spans and attributes_of(spans["encode"])["routerretriever.experts"] == ["base"]

    trace, headers = parent_of(0x3EC7)
    traced.post("/v1/search", json={"query": "word1", "mode": "text"}, headers=headers)
    assert spans_of(collector, trace, ["POST /v1/search", "search"]).keys() == {"POST /v1/search", "search"}

    trace, headers = parent_of(0x40073)
    traced.post("/v1/route", json={"query": "word1"}, headers=headers)
    assert "explain" in spans_of(collector, trace, ["POST /v1/route", "explain"])


def test_a_failure_has_its_status_and_no_text(traced, collector):
    trace, headers = parent_of(0xFA11)
    body = {"query": "word1", "filter": {"private thing": 1}}
    assert traced.post("/v1/search", json=body, headers=headers).status_code == 400
    spans = spans_of(collector, trace, ["POST /v1/search", "search"])
    assert spans["search"].status.code == 2 and spans["search"].status.message == "FilterError"
    assert not spans["search"].events
    assert attributes_of(spans["POST /v1/search"])["http.response.status_code"] == 400


def test_no_text_is_sent_and_nothing_but_the_api_is_noted(traced, collector):
    for path in ("/health", "/ready", "/metrics", "/", "/page/app.js"):
        traced.get(path)
    trace, headers = parent_of(0x7E87)
    traced.post("/v1/search", json={"query": "a secret of word3"}, headers=headers)
    spans_of(collector, trace, ["POST /v1/search"])
    sent = b"".join(collector.bodies)
    assert b"secret" not in sent and b"private" not in sent and b"word" not in sent
    assert set(collector.paths) == {"/v1/traces"}
    names = {span.name for span in collector.spans}
    assert {name for name in names if name not in (*STAGES, "explain")} <= {
        f"POST /v1/{what}" for what in ("search", "embeddings", "route")
    }
    resource = attributes_of(collector.exports[0].resource_spans[0].resource)
    assert resource["service.name"] == "routerretriever" and resource["service.version"]


def test_a_caller_that_does_not_sample_is_heeded(traced, collector):
    unsampled, headers = parent_of(0x0FF, sampled="00")
    traced.post("/v1/search", json={"query": "word1"}, headers=headers)
    trace, headers = parent_of(0x0E)
    traced.post("/v1/search", json={"query": "word1"}, headers=headers)
    spans_of(collector, trace, ["POST /v1/search"])
    assert unsampled not in {span.trace_id.hex() for span in collector.spans}


def test_the_environment_says_where_and_under_which_name(built, monkeypatch):
    with receiving() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "our-search")
        settings = replace(only_reading(built), trace=trace_target(None, {"OTEL_TRACES_EXPORTER": "otlp"}))
        with running(settings) as client:
            wait_until_ready(client)
            client.post("/v1/embeddings", json={"input": "word1"})
        # What was not sent yet is sent when the server stops.
        resource = attributes_of(collector.exports[0].resource_spans[0].resource)
        assert resource["service.name"] == "our-search"
        assert {span.name for span in collector.spans} >= {"POST /v1/embeddings", "queue", "encode"}


def test_spans_on_the_console(built, capsys):
    with running(replace(only_reading(built), trace=CONSOLE)) as client:
        wait_until_ready(client)
        client.post("/v1/search", json={"query": "word1"})
    told = capsys.readouterr()
    assert '"name": "search"' in told.err and '"routerretriever.k": 10' in told.err
    assert told.out == ""


def test_a_collector_that_is_not_there_stops_nothing(built, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # seconds
    settings = replace(only_reading(built), trace="http://127.0.0.1:9/v1/traces")
    with running(settings) as client:
        wait_until_ready(client)
        assert client.post("/v1/search", json={"query": "word1"}).status_code == 200
        started = time.monotonic()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("given", "environ", "wanted"),
    [
        (None, {}, None),
        ("console", {}, CONSOLE),
        ("http://collector:4318", {}, "http://collector:4318/v1/traces"),
        ("https://collector/otlp/v1/traces", {}, "https://collector/otlp/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1"}, ENVIRONMENT),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x:1"}, ENVIRONMENT),
        (None, {"OTEL_TRACES_EXPORTER": "console"}, CONSOLE),
        (None, {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1"}, None),
        ("http://x:1", {"OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_where_spans_go(given, environ, wanted):
    assert trace_target(given, environ) == wanted


@pytest.mark.parametrize(
    ("given", "environ", "said"),
    [
        ("collector:4318", {}, "'collector:4318' is no place for spans"),
        ("file:///tmp/x", {}, "is no place for spans"),
        (None, {"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'"),
        (
            None,
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "by OTLP over grpc",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(given, environ, said):
    with pytest.raises(ServerError, match=said):
        trace_target(given, environ)


def test_without_the_extra_an_error_names_it(built, monkeypatch):
    module = "routerretriever.server.tracing"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(MissingExtraError, match=r"routerretriever\[tracing\]"):
        check_settings(Settings(model=built / "model", trace=CONSOLE))


@pytest.mark.slow
def test_nothing_of_it_is_loaded_when_it_is_off(built):
    code = (
        "import sys; from pathlib import Path; from routerretriever.server import Settings, create_app; "
        f"create_app(Settings(model=Path({str(built / 'model')!r}), admin_keys=({ADMIN_KEY!r},))); "
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
