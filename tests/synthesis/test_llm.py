"""Language models behind endpoints that misbehave."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from email.utils import formatdate

import pytest
from synthesis_server import answers_in, completion, llm, lost_in, passage_of

from routerretriever.errors import PausedError, SynthesisError
from routerretriever.synthesis import Limits, synthesize


def test_llm_writes_a_collection(serve, model, few, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-0815")

    def behave(handler, body, number):
        time.sleep(0.05)  # so that others can be under method
        endpoint.answer(handler, body, number)

    endpoint = serve(behave)
    examples = (("some passage", ("what is it", "it")),)
    config = llm(
        endpoint, examples=examples, extra={"temperature": None, "top_p": 0.9}, limits=Limits(price_in=2.0)
    )
    report = synthesize(few, tmp_path / "out", model=model, config=config)
    assert report.generated == 60
    assert (report.tokens_in, report.tokens_out) == (3000, 600)
    assert report.cost == pytest.approx(0.006)
    assert len(endpoint.requests) == 30
    body = endpoint.requests[0]
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert json.loads(body["messages"][1]["content"]) == ["what is it", "it"]
    assert (body["model"], body["top_p"], "temperature" in body) == ("tiny", 0.9, False)
    assert endpoint.headers[0]["Authorization"] == "Bearer secret-0815"
    assert 1 < endpoint.most_under_way <= 4
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"secret-0815" not in path.read_bytes()
    synthesize(few, tmp_path / "out", model=model, config=config, force=True)
    assert len(endpoint.requests) == 30  # nothing is paid for twice


def test_a_loop_that_runs_already_is_no_obstacle(serve, model, few, tmp_path):
    import asyncio

    async def notebook():
        return synthesize(few, tmp_path / "out", model=model, config=llm(serve()))

    assert asyncio.run(notebook()).generated == 60


def test_misbehaviour_is_survived(serve, model, few, tmp_path):
    """Every kind of fault in turn; in the end each passage has been answered exactly once."""
    seen = []

    def behave(handler, body, number):
        text = passage_of(body)
        seen.append(text)
        faults = [
            lambda: endpoint.reply(handler, b"slow down", 429, {"Retry-After": "0.2"}),
            lambda: endpoint.reply(
                handler, b"slow down", 429, {"Retry-After": formatdate(time.time() + 1, usegmt=True)}
            ),
            lambda: endpoint.reply(handler, b"oh no", 500),
            lambda: endpoint.reply(handler, b"<html>busy</html>", 503),
            lambda: endpoint.reply(handler, b"<html>welcome</html>"),
            lambda: endpoint.reply(handler, b"{}"),
            lambda: endpoint.reply(handler, completion("[]")[:-20]),
            lambda: endpoint.reply(handler, completion("x"), headers={"Content-Length": "9999"}),
            lambda: handler.connection.close(),
            lambda: time.sleep(1.5),
        ]
        if seen.count(text) == 1 and number <= 2 * len(faults):
            faults[number % len(faults)]()
        else:
            endpoint.answer(handler, body, number)

    endpoint = serve(behave)
    report = synthesize(few, tmp_path / "out", model=model, config=llm(endpoint, timeout=1.0))
    assert report.generated == 60
    assert set(endpoint.answered.values()) == {1}
    assert len(endpoint.answered) == 30


def test_retry_after_holds_all_requests(serve, model, few, tmp_path):
    def behave(handler, body, number):
        if number == 1:
            endpoint.reply(handler, b"", 429, {"Retry-After": "0.7"})
        else:
            endpoint.answer(handler, body, number)

    endpoint = serve(behave)
    synthesize(few, tmp_path / "out", model=model, config=llm(endpoint, concurrency=1))
    assert endpoint.times[1] - endpoint.times[0] >= 0.7


def test_a_long_retry_after_ends_the_run(serve, model, few, tmp_path):
    endpoint = serve(
        lambda handler, body, number: endpoint.reply(handler, b"", 429, {"Retry-After": "86400"})
    )
    with pytest.raises(PausedError, match="asks for 86400 seconds"):
        synthesize(few, tmp_path / "out", model=model, config=llm(endpoint))


def test_rate(serve, model, few, tmp_path):
    endpoint = serve()
    synthesize(few, tmp_path / "out", model=model, config=llm(endpoint, rate=60 / 0.05))
    assert endpoint.times[-1] - endpoint.times[0] >= 28 * 0.05


def test_an_endpoint_that_never_answers_ends_in_a_state_to_go_on_from(serve, model, few, tmp_path):
    def behave(handler, body, number):
        if number <= 8:
            endpoint.answer(handler, body, number)
        else:
            time.sleep(3)

    endpoint = serve(behave)
    started = time.monotonic()
    with pytest.raises(
        PausedError, match=r"does not answer \(no answer within 0.5 seconds\); 8 answers are in"
    ):
        synthesize(few, tmp_path / "out", model=model, config=llm(endpoint, timeout=0.5, retries=1))
    assert time.monotonic() - started < 60
    assert not (tmp_path / "out").exists()
    cured = serve()
    config = llm(endpoint)
    config = replace(config, llm=replace(config.llm, endpoint=cured.url))
    synthesize(few, tmp_path / "out", model=model, config=config)
    assert len(cured.requests) == 22


def test_a_server_that_dribbles_is_not_waited_for(serve, model, few, tmp_path):
    def behave(handler, body, number):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(30):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)

    endpoint = serve(behave)
    with pytest.raises(PausedError, match="no answer within 0.6 seconds"):
        synthesize(few, tmp_path / "out", model=model, config=llm(endpoint, timeout=0.6, retries=0))


def test_one_passage_that_fails_does_not_stop_the_others(serve, model, few, tmp_path):
    bad = json.loads(few.read_text().splitlines()[5])["text"]

    def behave(handler, body, number):
        if passage_of(body) == bad:
            endpoint.reply(handler, b"content filter", 400)
        else:
            endpoint.answer(handler, body, number)

    endpoint = serve(behave)
    with pytest.raises(PausedError, match="1 passages were refused.*status 400: content filter.*--finish"):
        synthesize(few, tmp_path / "out", model=model, config=llm(endpoint))
    assert len(endpoint.requests) == 30  # a refusal is not repeated
    report = synthesize(few, tmp_path / "out", model=model, config=llm(endpoint), finish=True)
    assert report.generated == 58
    assert "29 of 30 passages" in report.notes[0]
    assert len(endpoint.requests) == 30


def forbidding(serve, forbidden, reason):
    """An endpoint that refuses some requests, by their number, with a 403."""

    def behave(handler, body, number):
        if forbidden(number):
            endpoint.reply(handler, reason, 403)
        else:
            endpoint.answer(handler, body, number)

    endpoint = serve(behave)
    return endpoint


def test_passages_that_a_gateway_forbids_do_not_end_the_run(serve, model, few, tmp_path):
    endpoint = forbidding(serve, lambda number: 5 <= number < 13, b"moderated")
    with pytest.raises(
        PausedError, match="8 passages were refused.*status 403: moderated.*22 answers.*--finish"
    ):
        synthesize(few, tmp_path / "out", model=model, config=llm(endpoint, concurrency=1))
    assert len(endpoint.requests) == 30
    report = synthesize(few, tmp_path / "out", model=model, config=llm(endpoint), finish=True)
    assert "22 of 30 passages" in report.notes[0]


def test_a_key_that_may_not_ask_is_told_after_a_few_passages(serve, model, few, tmp_path):
    endpoint = forbidding(serve, lambda number: True, b"no access")
    with pytest.raises(
        SynthesisError, match="refuses every request .status 403: no access.*OPENAI_API_KEY"
    ) as error:
        synthesize(few, tmp_path / "out", model=model, config=llm(endpoint))
    assert not isinstance(error.value, PausedError)
    assert len(endpoint.requests) <= 8
    assert lost_in(tmp_path / "out") == []


def test_an_endpoint_that_refuses_all_from_some_point_on_is_left(serve, model, few, tmp_path):
    endpoint = forbidding(serve, lambda number: number > 2, b"quota")
    with pytest.raises(PausedError, match="does not answer .status 403: quota"):
        synthesize(few, tmp_path / "out", model=model, config=llm(endpoint, concurrency=1))
    assert len(endpoint.requests) == 22


def test_a_wrong_key_is_told_at_once_and_not_shown(serve, model, few, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-0815")
    endpoint = serve(lambda handler, body, number: endpoint.reply(handler, b"bad key secret-0815", 401))
    with pytest.raises(SynthesisError, match="status 401: bad key ….*OPENAI_API_KEY") as error:
        synthesize(few, tmp_path / "out", model=model, config=llm(endpoint))
    assert "secret" not in str(error.value)
    assert len(endpoint.requests) <= 4


def command(endpoint, few, out, checkpoint):
    arguments = [
        "synthesize",
        few,
        "--out",
        out,
        "--with",
        "llm",
        "--endpoint",
        endpoint.url,
        "--model",
        "tiny",
    ]
    arguments += ["--base", checkpoint, "--queries", 60, "-k", 30, "--concurrency", 2, "--json"]
    return [sys.executable, "-m", "routerretriever", *map(str, arguments)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_killed_or_interrupted_command_goes_on_without_paying_twice(
    serve, checkpoint, few, tmp_path, number, code
):
    def behave(handler, body, count):
        time.sleep(0.1)
        endpoint.answer(handler, body, count)

    endpoint = serve(behave)
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(endpoint, few, out, checkpoint), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while len(endpoint.answered) < 8 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    if number == signal.SIGINT:
        assert b"rerun the command to continue" in b" ".join(said.split())
        assert b"Traceback" not in said
    assert not out.exists()
    kept = set(answers_in(out))
    if number == signal.SIGINT:  # what was under method may be billed; after a kill nobody can say
        assert {record["problem"] for record in lost_in(out)} <= {"interrupted"} and len(lost_in(out)) <= 2
    assert 4 <= len(kept) < 30
    before = len(endpoint.requests)
    finished = subprocess.run(command(endpoint, few, out, checkpoint), capture_output=True, check=True)
    assert json.loads(finished.stdout)["generated"] == 60
    assert len(endpoint.requests) - before == 30 - len(kept)
    # Only what was under method when the process died may have been answered twice.
    assert sum(count - 1 for count in endpoint.answered.values()) <= 2
    assert re.search(rb"Traceback", finished.stderr) is None
