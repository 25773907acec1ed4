"""Queries from models: a tiny sequence-to-sequence checkpoint, and endpoints that misbehave."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from email.utils import formatdate

import pytest
import sentencepiece
import torch
from documents import texts, write_documents
from synthesis_server import Endpoint, completion, passage_of
from tiny import WORDS
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from routerretriever import Collection, RouterRetriever
from routerretriever.errors import MissingExtraError, ModelError, PausedError, SynthesisError
from routerretriever.synthesis import Doc2QueryConfig, Limits, LlmConfig, SynthesisConfig, synthesize
from routerretriever.synthesis.answers import queries_in
from routerretriever.synthesis.journal import Answer, Journal
from routerretriever.synthesis.prompts import read_examples, read_prompt
from routerretriever.synthesis.write import journal_path


@pytest.fixture
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


@pytest.fixture
def bare(tmp_path):
    return write_documents(tmp_path / "bare.jsonl", texts(30))


def answers_in(out):
    lines = journal_path(out).read_text().splitlines()[1:]
    return {record["key"]: record for record in map(json.loads, lines) if "key" in record}


def lost_in(out):
    lines = journal_path(out).read_text().splitlines()[1:]
    return [record for record in map(json.loads, lines) if "lost" in record]


# -- doc2query -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A tiny random T5, saved as hub checkpoints are."""
    directory = tmp_path_factory.mktemp("tiny-t5")
    vocabulary = {token: number for number, token in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(directory)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(vocabulary), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    T5ForConditionalGeneration(config).save_pretrained(directory)
    return directory


def asking(writer, **changes):
    generator = Doc2QueryConfig(model=str(writer), batch_size=8, write_tokens=6, device="cpu")
    return replace(SynthesisConfig(method="doc2query", queries=60, k=30, doc2query=generator), **changes)


def test_doc2query_writes_a_collection(writer, model, bare, tmp_path):
    report = synthesize(bare, tmp_path / "out", model=model, config=asking(writer))
    assert report.generated == 60
    assert set(Collection.load(tmp_path / "out").generated.values()) == {"doc2query"}
    queries = [query for record in answers_in(tmp_path / "out").values() for query in record["queries"]]
    assert len(set(queries)) > 50  # sampled, not the likeliest for all
    assert not any("<pad>" in query or "</s>" in query for query in queries)
    again = synthesize(bare, tmp_path / "again", model=model, config=asking(writer))
    assert answers_in(tmp_path / "again") == answers_in(tmp_path / "out")
    assert again.settings["model"] == str(writer)
    synthesize(bare, tmp_path / "other", model=model, config=asking(writer, seed=1))
    assert answers_in(tmp_path / "other") != answers_in(tmp_path / "out")


def test_interrupted_doc2query_ends_with_the_same_queries(writer, model, bare, tmp_path, monkeypatch):
    synthesize(bare, tmp_path / "whole", model=model, config=asking(writer))
    append, calls = Journal.append, []

    def interrupted(self, answers):
        calls.append(len(answers))
        if len(calls) == 2:
            append(self, answers[:3])  # half a batch
            raise KeyboardInterrupt
        append(self, answers)

    monkeypatch.setattr(Journal, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthesize(bare, tmp_path / "out", model=model, config=asking(writer))
    assert len(answers_in(tmp_path / "out")) == 11
    assert not (tmp_path / "out").exists()
    calls.extend([0, 0])
    synthesize(bare, tmp_path / "out", model=model, config=asking(writer))
    assert calls[4:] == [5, 8, 6]  # what was there is not written again
    assert answers_in(tmp_path / "out") == answers_in(tmp_path / "whole")
    for file in ("queries.jsonl", "qrels/train.tsv"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_changed_settings_do_not_mix_with_old_answers(writer, model, bare, tmp_path):
    synthesize(bare, tmp_path / "out", model=model, config=asking(writer))
    with pytest.raises(SynthesisError, match=r"begun with other settings \(seed changed\)"):
        synthesize(bare, tmp_path / "out", model=model, config=asking(writer, seed=1), force=True)
    # The filter is no part of what was paid for.
    report = synthesize(bare, tmp_path / "out", model=model, config=asking(writer, k=12), force=True)
    assert report.settings["k"] == 12


def test_a_missing_checkpoint_is_named(model, bare, tmp_path):
    with pytest.raises(ModelError, match="nothing-here.*--with mixture"):
        synthesize(bare, tmp_path / "out", model=model, config=asking(tmp_path / "nothing-here"))


@pytest.fixture(scope="module")
def published(writer, tmp_path_factory):
    """The same as the default checkpoint was published: a SentencePiece model and a pickle, nothing else."""
    directory = tmp_path_factory.mktemp("spiece-t5")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts(300)),
        model_prefix=str(directory / "spiece"),
        vocab_size=100,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (directory / "spiece.vocab").unlink()
    state = T5ForConditionalGeneration.from_pretrained(writer).state_dict()
    torch.save({name: tensor.clone() for name, tensor in state.items()}, directory / "pytorch_model.bin")
    shutil.copy(writer / "config.json", directory)
    assert {path.name for path in directory.iterdir()} == {"spiece.model", "pytorch_model.bin", "config.json"}
    return directory


def test_doc2query_reads_a_checkpoint_as_the_default_one_was_published(published, model, bare, tmp_path):
    assert synthesize(bare, tmp_path / "out", model=model, config=asking(published)).generated == 60
    queries = [query for record in answers_in(tmp_path / "out").values() for query in record["queries"]]
    assert sum(bool(re.search(r"\d", query)) for query in queries) > 30  # pieces of its vocabulary, not ids
    assert not any("<pad>" in query or "▁" in query for query in queries)


@pytest.mark.parametrize(("module", "package"), [("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")])
def test_a_missing_tokeniser_package_is_named_with_its_extra(
    published, model, bare, tmp_path, monkeypatch, module, package
):
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    monkeypatch.setitem(sys.modules, module, None)  # what Python takes for not installed
    is_sentencepiece_available.cache_clear()
    is_protobuf_available.cache_clear()
    try:
        with pytest.raises(MissingExtraError, match=rf"'{package}'.*pip install 'routerretriever\[doc2query\]'"):
            synthesize(bare, tmp_path / "out", model=model, config=asking(published))
    finally:
        is_sentencepiece_available.cache_clear()
        is_protobuf_available.cache_clear()


# -- the journal -----------------------------------------------------------------------------------


def test_half_a_line_is_cut_off_and_damage_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    with Journal.open(path, {"seed": 0}) as journal:
        journal.append([Answer(key="one", queries=("q",)), Answer(key="two")])
        with pytest.raises(SynthesisError, match="Another process is writing"), Journal.open(path, {"seed": 0}):
            pass
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with Journal.open(path, {"seed": 0}) as journal:
        assert set(journal.answers) == {"one"}
        journal.append([Answer(key="two")])
    assert path.read_bytes() == whole
    with Journal.open(tmp_path / "b.jsonl", {"seed": 0}):
        pass
    with Journal.open(tmp_path / "b.jsonl", {"seed": 1}) as journal:  # nothing had been paid for
        journal.append([Answer(key="one")])
    with Journal.open(tmp_path / "b.jsonl", {"seed": 1}) as journal:
        assert set(journal.answers) == {"one"}
    path.write_bytes(whole.replace(b'{"settings"', b'\xef\xbb\xbf{"settings"'))
    with Journal.open(path, {"seed": 0}) as journal:
        assert set(journal.answers) == {"one", "two"}
    path.write_bytes(whole.replace(b'"key": "two"', b'"key": two'))
    with pytest.raises(SynthesisError, match="line 3 is damaged"), Journal.open(path, {"seed": 0}):
        pass
    path.write_bytes(b"nonsense\n" + whole)
    with pytest.raises(SynthesisError, match="is damaged"), Journal.open(path, {"seed": 0}):
        pass


def test_answers_of_the_first_version_are_taken_up(tmp_path):
    path = tmp_path / "a.jsonl"
    settings = SynthesisConfig(method="doc2query").settings()
    before = {"way" if name == "method" else name: value for name, value in settings.items()}
    answer = {"key": "one", "queries": ["q"], "tokens_in": 5, "tokens_out": 2, "problem": ""}
    path.write_text(json.dumps({"settings": before}) + "\n" + json.dumps(answer) + "\n")
    with Journal.open(path, settings) as journal:
        assert journal.answers["one"].queries == ("q",)
    with (
        pytest.raises(SynthesisError, match=r"other settings \(method, seed changed\)"),
        Journal.open(path, settings | {"method": "llm", "seed": 5}),
    ):
        pass


# -- language models -------------------------------------------------------------------------------


@pytest.fixture
def serve():
    """Starts endpoints that behave as told."""
    running = []

    def start(behave=None):
        running.append(Endpoint(behave))
        return running[-1]

    yield start
    for endpoint in running:
        endpoint.close()


def llm(endpoint, **changes):
    given = {"backoff": 0.01, "timeout": 5.0, "retries": 3} | changes
    return SynthesisConfig(method="llm", queries=60, k=30, llm=LlmConfig(endpoint=endpoint.url, model="tiny", **given))


def test_llm_writes_a_collection(serve, model, bare, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-0815")

    def behave(handler, body, number):
        time.sleep(0.05)  # so that others can be under method
        endpoint.answer(handler, body, number)

    endpoint = serve(behave)
    examples = (("some passage", ("what is it", "it")),)
    config = llm(endpoint, examples=examples, extra={"temperature": None, "top_p": 0.9}, limits=Limits(price_in=2.0))
    report = synthesize(bare, tmp_path / "out", model=model, config=config)
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
    synthesize(bare, tmp_path / "out", model=model, config=config, force=True)
    assert len(endpoint.requests) == 30  # nothing is paid for twice


def test_a_loop_that_runs_already_is_no_obstacle(serve, model, bare, tmp_path):
    import asyncio

    async def notebook():
        return synthesize(bare, tmp_path / "out", model=model, config=llm(serve()))

    assert asyncio.run(notebook()).generated == 60


def test_misbehaviour_is_survived(serve, model, bare, tmp_path):
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
    report = synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint, timeout=1.0))
    assert report.generated == 60
    assert set(endpoint.answered.values()) == {1}
    assert len(endpoint.answered) == 30


def test_retry_after_holds_all_requests(serve, model, bare, tmp_path):
    def behave(handler, body, number):
        if number == 1:
            endpoint.reply(handler, b"", 429, {"Retry-After": "0.7"})
        else:
            endpoint.answer(handler, body, number)

    endpoint = serve(behave)
    synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint, concurrency=1))
    assert endpoint.times[1] - endpoint.times[0] >= 0.7


def test_a_long_retry_after_ends_the_run(serve, model, bare, tmp_path):
    endpoint = serve(lambda handler, body, number: endpoint.reply(handler, b"", 429, {"Retry-After": "86400"}))
    with pytest.raises(PausedError, match="asks for 86400 seconds"):
        synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint))


def test_rate(serve, model, bare, tmp_path):
    endpoint = serve()
    synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint, rate=60 / 0.05))
    assert endpoint.times[-1] - endpoint.times[0] >= 28 * 0.05


def test_an_endpoint_that_never_answers_ends_in_a_state_to_go_on_from(serve, model, bare, tmp_path):
    def behave(handler, body, number):
        if number <= 8:
            endpoint.answer(handler, body, number)
        else:
            time.sleep(3)

    endpoint = serve(behave)
    started = time.monotonic()
    with pytest.raises(PausedError, match=r"does not answer \(no answer within 0.5 seconds\); 8 answers are in"):
        synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint, timeout=0.5, retries=1))
    assert time.monotonic() - started < 60
    assert not (tmp_path / "out").exists()
    cured = serve()
    config = llm(endpoint)
    config = replace(config, llm=replace(config.llm, endpoint=cured.url))
    synthesize(bare, tmp_path / "out", model=model, config=config)
    assert len(cured.requests) == 22


def test_a_server_that_dribbles_is_not_waited_for(serve, model, bare, tmp_path):
    def behave(handler, body, number):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(30):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)

    endpoint = serve(behave)
    with pytest.raises(PausedError, match="no answer within 0.6 seconds"):
        synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint, timeout=0.6, retries=0))


def test_one_passage_that_fails_does_not_stop_the_others(serve, model, bare, tmp_path):
    bad = json.loads(bare.read_text().splitlines()[5])["text"]

    def behave(handler, body, number):
        if passage_of(body) == bad:
            endpoint.reply(handler, b"content filter", 400)
        else:
            endpoint.answer(handler, body, number)

    endpoint = serve(behave)
    with pytest.raises(PausedError, match="1 passages were refused.*status 400: content filter.*--finish"):
        synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint))
    assert len(endpoint.requests) == 30  # a refusal is not repeated
    report = synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint), finish=True)
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


def test_passages_that_a_gateway_forbids_do_not_end_the_run(serve, model, bare, tmp_path):
    endpoint = forbidding(serve, lambda number: 5 <= number < 13, b"moderated")
    with pytest.raises(PausedError, match="8 passages were refused.*status 403: moderated.*22 answers.*--finish"):
        synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint, concurrency=1))
    assert len(endpoint.requests) == 30
    report = synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint), finish=True)
    assert "22 of 30 passages" in report.notes[0]


def test_a_key_that_may_not_ask_is_told_after_a_few_passages(serve, model, bare, tmp_path):
    endpoint = forbidding(serve, lambda number: True, b"no access")
    with pytest.raises(SynthesisError, match="refuses every request .status 403: no access.*OPENAI_API_KEY") as error:
        synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint))
    assert not isinstance(error.value, PausedError)
    assert len(endpoint.requests) <= 8
    assert lost_in(tmp_path / "out") == []


def test_an_endpoint_that_refuses_all_from_some_point_on_is_left(serve, model, bare, tmp_path):
    endpoint = forbidding(serve, lambda number: number > 2, b"quota")
    with pytest.raises(PausedError, match="does not answer .status 403: quota"):
        synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint, concurrency=1))
    assert len(endpoint.requests) == 22


def test_a_wrong_key_is_told_at_once_and_not_shown(serve, model, bare, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-0815")
    endpoint = serve(lambda handler, body, number: endpoint.reply(handler, b"bad key secret-0815", 401))
    with pytest.raises(SynthesisError, match="status 401: bad key ….*OPENAI_API_KEY") as error:
        synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint))
    assert "secret" not in str(error.value)
    assert len(endpoint.requests) <= 4


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (Limits(requests=7), 7),
        (Limits(tokens=2500), 20),
        (Limits(cost=0.002, price_in=1.0, price_out=5.0), 9),
    ],
)
def test_limits_are_never_passed_and_can_be_raised(serve, model, bare, tmp_path, limits, most):
    endpoint = serve()
    config = llm(endpoint, limits=limits, answer_tokens=50)
    with pytest.raises(PausedError, match="limit is reached.*higher limit"):
        synthesize(bare, tmp_path / "out", model=model, config=config)
    first = len(endpoint.requests)
    assert 0 < first <= most
    records = answers_in(tmp_path / "out").values()
    spent = sum(record["tokens_in"] for record in records), sum(record["tokens_out"] for record in records)
    assert limits.tokens is None or sum(spent) <= limits.tokens
    assert limits.cost is None or limits.price(*spent) <= limits.cost
    with pytest.raises(PausedError):
        synthesize(bare, tmp_path / "out", model=model, config=config)
    assert len(endpoint.requests) == first  # limits hold for all runs together
    synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint, answer_tokens=50))
    assert len(endpoint.requests) == 30


def test_answers_that_never_come_count_as_requests(serve, model, bare, tmp_path):
    endpoint = serve(lambda handler, body, number: time.sleep(1))
    config = llm(endpoint, timeout=0.3, limits=Limits(requests=5))
    for _ in range(2):
        with pytest.raises(PausedError, match="limit is reached"):
            synthesize(bare, tmp_path / "out", model=model, config=config)
    assert len(endpoint.requests) == len(lost_in(tmp_path / "out")) == 5
    assert all(record["tokens_in"] > 20 and record["tokens_out"] == 400 for record in lost_in(tmp_path / "out"))


def test_answers_without_choices_cost_what_they_say(serve, model, bare, tmp_path):
    def behave(handler, body, number):
        endpoint.reply(handler, b'{"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 20}}')

    endpoint = serve(behave)
    limits = Limits(cost=0.002, price_in=1.0, price_out=5.0)
    config = llm(endpoint, limits=limits, answer_tokens=50)
    with pytest.raises(PausedError, match="limit is reached"):
        synthesize(bare, tmp_path / "out", model=model, config=config)
    lost = lost_in(tmp_path / "out")
    assert 5 < len(endpoint.requests) == len(lost) < 10
    assert {(record["tokens_in"], record["tokens_out"]) for record in lost} == {(100, 20)}
    cured = serve()
    config = replace(config, llm=replace(config.llm, endpoint=cured.url, limits=replace(limits, cost=1.0)))
    report = synthesize(bare, tmp_path / "out", model=model, config=config)
    assert (report.tokens_in, report.tokens_out) == (100 * (30 + len(lost)), 20 * (30 + len(lost)))
    assert report.cost == pytest.approx(0.0002 * (30 + len(lost)))
    assert any(f"{len(lost)} requests had no usable answer but may be billed" in note for note in report.notes)


def test_what_cannot_be_billed_does_not_count(serve, model, bare, tmp_path):
    endpoint = serve()
    endpoint.close()
    config = llm(endpoint, limits=Limits(requests=2), retries=1)
    with pytest.raises(PausedError, match=r"does not answer \(ConnectError"):
        synthesize(bare, tmp_path / "out", model=model, config=config)
    busy = serve(lambda handler, body, number: busy.reply(handler, b"busy", 503))
    config = replace(config, llm=replace(config.llm, endpoint=busy.url))
    with pytest.raises(PausedError, match=r"does not answer \(status 503"):
        synthesize(bare, tmp_path / "out", model=model, config=config)
    assert lost_in(tmp_path / "out") == []


@pytest.mark.parametrize(
    "extra", [{"max_tokens": 1900}, {"max_tokens": None, "max_completion_tokens": 1900}, {"max_tokens": 950, "n": 2}]
)
def test_the_bound_of_an_answer_is_what_the_request_says(serve, model, bare, tmp_path, extra):
    endpoint = serve()
    config = llm(endpoint, extra=extra, limits=Limits(tokens=2600))
    with pytest.raises(PausedError, match="limit is reached"):
        synthesize(bare, tmp_path / "out", model=model, config=config)
    assert 2 <= len(endpoint.requests) <= 6
    assert endpoint.most_under_way == 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [({"max_tokens": None}, "needs a bound on every answer.*max_completion_tokens"), ({"max_tokens": "9"}, "whole")],
)
def test_an_answer_without_a_bound_is_refused_where_there_is_a_limit(serve, model, bare, tmp_path, extra, message):
    endpoint = serve()
    with pytest.raises(SynthesisError, match=message):
        synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint, extra=extra, limits=Limits(tokens=9999)))
    assert endpoint.requests == []


def test_a_limit_of_cost_needs_prices():
    with pytest.raises(SynthesisError, match="needs prices.*price_in and price_out"):
        Limits(cost=1.0)
    assert Limits(cost=1.0, price_out=2.0).price(5, 1_000_000) == 2.0


def test_unusable_answers_are_paid_for_once_and_reported(serve, model, bare, tmp_path):
    def behave(handler, body, number):
        endpoint.reply(
            handler,
            completion("I cannot help with that.", usage=False)
            if number % 3
            else completion('["word1 word2", "word3 wo'),
        )

    endpoint = serve(behave)
    with pytest.raises(
        SynthesisError,
        match="Of 10 queries .*too few to train on.*Answers with too few queries: 20 no queries in the answer, 10 too few queries",
    ):
        synthesize(bare, tmp_path / "out", model=model, config=llm(endpoint))
    assert len(endpoint.requests) == 30
    records = answers_in(tmp_path / "out").values()
    assert {record["problem"] for record in records} == {"no queries in the answer", "too few queries"}
    assert all(record["tokens_in"] > 0 and record["tokens_out"] > 0 for record in records)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["a b", "c"]', ["a b", "c"]),
        ('```json\n["a b", "c"]\n```', ["a b", "c"]),
        ('Sure! Here they are: ["a b", "c"] Enjoy.', ["a b", "c"]),
        ('{"queries": [{"query": "a b"}, "c", "c"]}', ["a b", "c"]),
        ('["a \\"b\\"", "c", "cut of', ['a "b"', "c"]),
        ('{"queries": ["a b", "cut of', ["a b"]),
        ("[]", []),
        ("Queries:\n1. a b\n2) c\n- d", ["a b", "c", "d"]),
        ("what is a?\nsee above", ["what is a?"]),
        ('- "quoted"', ["quoted"]),
        ("I cannot help.", []),
        ("", []),
    ],
)
def test_answers_of_any_shape(text, expected):
    assert queries_in(text) == expected


def test_prompt_and_example_files(tmp_path):
    (tmp_path / "p.txt").write_text("Ask for ${text}!")
    assert read_prompt(tmp_path / "p.txt") == "Ask for ${text}!"
    (tmp_path / "p.txt").write_text("Ask!")
    with pytest.raises(SynthesisError, match=r"has no \$text"):
        read_prompt(tmp_path / "p.txt")
    with pytest.raises(SynthesisError, match="cannot be read"):
        read_prompt(tmp_path / "none.txt")
    (tmp_path / "e.jsonl").write_text('{"text": "t", "queries": ["a"]}\n\n')
    assert read_examples(tmp_path / "e.jsonl") == (("t", ("a",)),)
    (tmp_path / "e.jsonl").write_text('{"text": "t", "queries": ["a"]}\n{"text": "t", "queries": "a"}\n')
    with pytest.raises(SynthesisError, match="line 2: expected"):
        read_examples(tmp_path / "e.jsonl")


def command(endpoint, bare, out, checkpoint):
    arguments = ["synthesize", bare, "--out", out, "--with", "llm", "--endpoint", endpoint.url, "--model", "tiny"]
    arguments += ["--base", checkpoint, "--queries", 60, "-k", 30, "--concurrency", 2, "--json"]
    return [sys.executable, "-m", "routerretriever", *map(str, arguments)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_killed_or_interrupted_command_goes_on_without_paying_twice(serve, checkpoint, bare, tmp_path, number, code):
    def behave(handler, body, count):
        time.sleep(0.1)
        endpoint.answer(handler, body, count)

    endpoint = serve(behave)
    out = tmp_path / "out"
    process = subprocess.Popen(command(endpoint, bare, out, checkpoint), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while len(endpoint.answered) < 8 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    if number == signal.SIGINT:
        assert b"goes on from there" in b" ".join(said.split())
        assert b"Traceback" not in said
    assert not out.exists()
    kept = set(answers_in(out))
    if number == signal.SIGINT:  # what was under method may be billed; after a kill nobody can say
        assert {record["problem"] for record in lost_in(out)} <= {"interrupted"} and len(lost_in(out)) <= 2
    assert 4 <= len(kept) < 30
    before = len(endpoint.requests)
    finished = subprocess.run(command(endpoint, bare, out, checkpoint), capture_output=True, check=True)
    assert json.loads(finished.stdout)["generated"] == 60
    assert len(endpoint.requests) - before == 30 - len(kept)
    # Only what was under method when the process died may have been answered twice.
    assert sum(count - 1 for count in endpoint.answered.values()) <= 2
    assert re.search(rb"Traceback", finished.stderr) is None
