"""What a language model may cost is never passed."""

import time
from dataclasses import replace

import pytest
from synthesis_server import answers_in, llm, lost_in

from routerretriever.errors import PausedError, SynthesisError
from routerretriever.synthesis import Limits, synthesize


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (Limits(requests=7), 7),
        (Limits(tokens=2500), 20),
        (Limits(cost=0.002, price_in=1.0, price_out=5.0), 9),
    ],
)
def test_limits_are_never_passed_and_can_be_raised(serve, model, few, tmp_path, limits, most):
    endpoint = serve()
    config = llm(endpoint, limits=limits, answer_tokens=50)
    with pytest.raises(PausedError, match="limit is reached.*higher limit"):
        synthesize(few, tmp_path / "out", model=model, config=config)
    first = len(endpoint.requests)
    assert 0 < first <= most
    records = answers_in(tmp_path / "out").values()
    spent = sum(record["tokens_in"] for record in records), sum(record["tokens_out"] for record in records)
    assert limits.tokens is None or sum(spent) <= limits.tokens
    assert limits.cost is None or limits.price(*spent) <= limits.cost
    with pytest.raises(PausedError):
        synthesize(few, tmp_path / "out", model=model, config=config)
    assert len(endpoint.requests) == first  # limits hold for all runs together
    synthesize(few, tmp_path / "out", model=model, config=llm(endpoint, answer_tokens=50))
    assert len(endpoint.requests) == 30


def test_answers_that_never_come_count_as_requests(serve, model, few, tmp_path):
    endpoint = serve(lambda handler, body, number: time.sleep(1))
    config = llm(endpoint, timeout=0.3, limits=Limits(requests=5))
    for _ in range(2):
        with pytest.raises(PausedError, match="limit is reached"):
            synthesize(few, tmp_path / "out", model=model, config=config)
    assert len(endpoint.requests) == len(lost_in(tmp_path / "out")) == 5
    assert all(
        record["tokens_in"] > 20 and record["tokens_out"] == 400 for record in lost_in(tmp_path / "out")
    )


def test_answers_without_choices_cost_what_they_say(serve, model, few, tmp_path):
    def behave(handler, body, number):
        endpoint.reply(handler, b'{"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 20}}')

    endpoint = serve(behave)
    limits = Limits(cost=0.002, price_in=1.0, price_out=5.0)
    config = llm(endpoint, limits=limits, answer_tokens=50)
    with pytest.raises(PausedError, match="limit is reached"):
        synthesize(few, tmp_path / "out", model=model, config=config)
    lost = lost_in(tmp_path / "out")
    assert 5 < len(endpoint.requests) == len(lost) < 10
    assert {(record["tokens_in"], record["tokens_out"]) for record in lost} == {(100, 20)}
    cured = serve()
    config = replace(config, llm=replace(config.llm, endpoint=cured.url, limits=replace(limits, cost=1.0)))
    report = synthesize(few, tmp_path / "out", model=model, config=config)
    assert (report.tokens_in, report.tokens_out) == (100 * (30 + len(lost)), 20 * (30 + len(lost)))
    assert report.cost == pytest.approx(0.0002 * (30 + len(lost)))
    assert any(
        f"{len(lost)} requests had no usable answer but may be billed" in note for note in report.notes
    )


def test_what_cannot_be_billed_does_not_count(serve, model, few, tmp_path):
    endpoint = serve()
    endpoint.close()
    config = llm(endpoint, limits=Limits(requests=2), retries=1)
    with pytest.raises(PausedError, match=r"does not answer \(ConnectError"):
        synthesize(few, tmp_path / "out", model=model, config=config)
    busy = serve(lambda handler, body, number: busy.reply(handler, b"busy", 503))
    config = replace(config, llm=replace(config.llm, endpoint=busy.url))
    with pytest.raises(PausedError, match=r"does not answer \(status 503"):
        synthesize(few, tmp_path / "out", model=model, config=config)
    assert lost_in(tmp_path / "out") == []


@pytest.mark.parametrize(
    "extra",
    [{"max_tokens": 1900}, {"max_tokens": None, "max_completion_tokens": 1900}, {"max_tokens": 950, "n": 2}],
)
def test_the_bound_of_an_answer_is_what_the_request_says(serve, model, few, tmp_path, extra):
    endpoint = serve()
    config = llm(endpoint, extra=extra, limits=Limits(tokens=2600))
    with pytest.raises(PausedError, match="limit is reached"):
        synthesize(few, tmp_path / "out", model=model, config=config)
    assert 2 <= len(endpoint.requests) <= 6
    assert endpoint.most_under_way == 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"max_tokens": None}, "needs a bound on every answer.*max_completion_tokens"),
        ({"max_tokens": "9"}, "whole"),
    ],
)
def test_an_answer_without_a_bound_is_refused_where_there_is_a_limit(
    serve, model, few, tmp_path, extra, message
):
    endpoint = serve()
    with pytest.raises(SynthesisError, match=message):
        synthesize(
            few, tmp_path / "out", model=model, config=llm(endpoint, extra=extra, limits=Limits(tokens=9999))
        )
    assert endpoint.requests == []


def test_a_limit_of_cost_needs_prices():
    with pytest.raises(SynthesisError, match="needs prices.*price_in and price_out"):
        Limits(cost=1.0)
    assert Limits(cost=1.0, price_out=2.0).price(5, 1_000_000) == 2.0
