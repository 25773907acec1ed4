"""A model's answers are kept, whatever happens."""

import json

import pytest

from routerretriever.errors import SynthesisError
from routerretriever.synthesis import SynthesisConfig
from routerretriever.synthesis.journal import Answer, Journal


def test_half_a_line_is_cut_off_and_damage_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    with Journal.open(path, {"seed": 0}) as journal:
        journal.append([Answer(key="one", queries=("q",)), Answer(key="two")])
        with (
            pytest.raises(SynthesisError, match="Another process is writing"),
            Journal.open(path, {"seed": 0}),
        ):
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
