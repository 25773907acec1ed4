"""Prompts, examples, and answers of any shape."""

import pytest
from synthesis_server import answers_in, completion, llm

from routerretriever.errors import SynthesisError
from routerretriever.synthesis import synthesize
from routerretriever.synthesis.answers import queries_in
from routerretriever.synthesis.prompts import read_examples, read_prompt


def test_unusable_answers_are_paid_for_once_and_reported(serve, model, few, tmp_path):
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
        synthesize(few, tmp_path / "out", model=model, config=llm(endpoint))
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
