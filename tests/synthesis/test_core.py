"""The new collection, from documents to an expert."""

import json
import random
import time

import pytest
from documents import texts, whole_passages, write_documents

from routerretriever import Collection, TrainingConfig, train_expert
from routerretriever.errors import CollectionError, ExpertError, SynthesisError
from routerretriever.lora.expert_info import ExpertInfo
from routerretriever.sharing.model_card import model_card
from routerretriever.storage.model_folder import read_expert_info
from routerretriever.synthesis import SynthesisConfig, synthesize
from routerretriever.synthesis.filters import MERGED
from routerretriever.synthesis.passages import READ_CHARACTERS


@pytest.mark.parametrize("method", ["crops", "titles", "mixture"])
def test_the_new_collection_trains_an_expert_that_says_so(method, model, bare, tmp_path):
    report = synthesize(
        bare, tmp_path / "made", model=model, config=SynthesisConfig(method=method, queries=200, k=40)
    )
    collection = Collection.load(tmp_path / "made")
    assert len(collection.documents) == 80
    assert collection.documents[0].metadata == {"year": 2020}
    methods = set(collection.generated.values())
    assert methods == ({"crops", "titles"} if method == "mixture" else {method})
    written = json.loads((tmp_path / "made" / "synthesis.json").read_text())
    assert written == json.loads(json.dumps(report.to_dict()))
    assert written["settings"]["seed"] == 0
    assert report.generated == report.kept + sum(report.dropped.values())
    assert str(tmp_path) not in json.dumps(written)
    config = TrainingConfig(epochs=1, batch_size=16, rank=4)
    info = train_expert(model, collection, config=config, force=True).info
    assert sum(info.generated.values()) == info.queries == report.train
    assert set(info.generated) == methods
    model.save_pretrained(tmp_path / "model")
    assert read_expert_info(tmp_path / "model" / "experts" / "made").generated == info.generated
    card = (tmp_path / "model" / "README.md").read_text()
    assert (
        f"| made | made (queries generated from bare) | {report.train} | {report.held_out} (generated) |"
        in card
    )
    assert f"{report.train} of its {report.train} queries were generated" in card
    assert (
        f"Of the {report.held_out} queries that the scores above were measured on, {report.held_out} were generated"
        in card
    )
    assert (info.source, info.held_out_generated) == ("bare", report.held_out)


def test_a_query_of_several_passages_is_counted_once_and_nothing_is_left_over(model, tmp_path):
    lines = [
        json.dumps({"_id": f"d{n}", "title": f"word{n // 2} word{n // 2 + 40}", "text": text})
        for n, text in enumerate(texts(60))
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    config = SynthesisConfig(method="titles", queries=240, k=3)
    report = synthesize(tmp_path / "c.jsonl", tmp_path / "out", model=model, config=config)
    assert report.dropped[MERGED] > 0 and report.dropped["passage not among the first 3"] > 0
    assert report.generated == report.kept + sum(report.dropped.values())


def test_a_collection_made_of_a_made_one_keeps_the_first_name(model, bare, tmp_path):
    synthesize(bare, tmp_path / "one", model=model, config=SynthesisConfig(method="crops", k=80))
    report = synthesize(
        tmp_path / "one", tmp_path / "two", model=model, config=SynthesisConfig(method="titles", k=80)
    )
    assert report.source == Collection.load(tmp_path / "two").source == "bare"
    (tmp_path / "two" / "synthesis.json").write_text("{")
    with pytest.raises(CollectionError, match="synthesis.json is damaged.*restore it"):
        Collection.load(tmp_path / "two")


def test_experts_of_older_models_and_of_real_queries_say_nothing(model, make_collection, tmp_path):
    report = train_expert(
        model, Collection.load(make_collection("real")), config=TrainingConfig(epochs=1, rank=4), force=True
    )
    assert report.info.generated == {}
    assert "generated" not in model_card(model.encoder.parts(), model.encoder.max_seq_length)
    (tmp_path / "expert.json").write_text('{"collection": "old", "queries": 5}')
    assert read_expert_info(tmp_path) == ExpertInfo("old", 5)
    (tmp_path / "expert.json").write_text('{"collection": "old", "queries": 5, "generated": {"crops": 5}}')
    old = read_expert_info(tmp_path)
    assert old.gain_on_generated and old.trained_on == "old (generated queries)"


def test_queries_generated_elsewhere_are_marked_too(make_collection, tmp_path):
    (tmp_path / "generated.jsonl").write_text('{"_id": "d1", "query": "word1"}\n')
    collection = Collection.load(make_collection("c")).with_generated_queries(
        str(tmp_path / "generated.jsonl")
    )
    assert collection.generated == {"generated-0": "generated-queries"}


def test_the_result_does_not_depend_on_the_order_of_documents(model, bare, tmp_path):
    shuffled = bare.read_text().splitlines()
    random.Random(0).shuffle(shuffled)
    (tmp_path / "shuffled.jsonl").write_text("\n".join(shuffled) + "\n")
    config = SynthesisConfig(method="mixture", k=40)
    for name, source in (("a", bare), ("b", tmp_path / "shuffled.jsonl")):
        synthesize(source, tmp_path / name, model=model, config=config)
    for file in ("queries.jsonl", "qrels/train.tsv", "qrels/dev.tsv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_large_collection_is_sampled_and_a_small_one_asked_several_times(model, bare, tmp_path):
    one = synthesize(
        bare, tmp_path / "one", model=model, config=SynthesisConfig(method="crops", queries=40, k=80)
    )
    assert (one.asked, one.generated) == (40, 40)
    two = synthesize(
        bare, tmp_path / "two", model=model, config=SynthesisConfig(method="crops", queries=160, k=80)
    )
    assert (two.asked, two.generated) == (80, 160)
    assert "are few" in " ".join(one.notes)


def test_copies_of_a_passage_are_all_relevant(model, tmp_path):
    contents = texts(40)
    source = write_documents(tmp_path / "c.jsonl", contents + contents[:1])
    synthesize(source, tmp_path / "out", model=model, config=SynthesisConfig(method="crops", k=41))
    qrels = [
        grades
        for split in Collection.load(tmp_path / "out").splits.values()
        for grades in split.qrels.values()
    ]
    assert any("d0" in grades for grades in qrels)
    assert all(("d0" in grades) == ("d40" in grades) for grades in qrels)


def test_an_expert_of_a_model_can_look_for_the_passages(model, bare, make_collection, tmp_path):
    train_expert(
        model, Collection.load(make_collection("x")), config=TrainingConfig(epochs=1, rank=4), force=True
    )
    report = synthesize(
        bare, tmp_path / "out", model=model, expert="x", config=SynthesisConfig(method="crops", k=40)
    )
    assert report.settings["expert"] == "x"
    with pytest.raises(ExpertError, match="nobody"):
        synthesize(
            bare, tmp_path / "o2", model=model, expert="nobody", config=SynthesisConfig(method="crops")
        )


@pytest.mark.parametrize("method", ["crops", "titles"])
def test_huge_and_empty_texts_are_stated(method, model, tmp_path, monkeypatch):
    """Ten megabytes, of which only the first hundred pages are cut into passages."""
    tokenise, longest = model.encoder.body.preprocess, []

    def watched(inputs, **kwargs):
        longest.append(max(map(len, inputs)))
        return tokenise(inputs, **kwargs)

    monkeypatch.setattr(model.encoder.body, "preprocess", watched)
    huge = "# A heading\n\n" + "word1 word2 word3. " * 550_000
    assert len(huge) > 10_000_000
    source = write_documents(tmp_path / "c.jsonl", [*texts(40), huge, ""])
    started = time.monotonic()
    report = synthesize(source, tmp_path / "out", model=model, config=SynthesisConfig(method=method, k=40))
    assert time.monotonic() - started < 60  # minutes, where the whole was tokenised
    assert max(longest) < 10_000
    assert report.set_aside["without a text"] == 1
    assert report.set_aside["boilerplate, the same in many"] > 500  # the same words over and over
    assert "Only the beginning of 1 long texts was read" in report.notes[0]
    assert report.in_passages == 1
    collection = Collection.load(tmp_path / "out")
    assert [len(d.text) for d in collection.documents[-2:]] == [len(huge), 0]
    assert len(whole_passages(collection.documents).items[0].text) <= READ_CHARACTERS


def test_a_base_that_finds_nothing_is_named(model, tmp_path):
    unknown = [" ".join(f"слово{n * 7 + m}" for m in range(9)) for n in range(300)]
    source = write_documents(tmp_path / "c.jsonl", unknown)
    report = synthesize(source, tmp_path / "out", model=model, config=SynthesisConfig(method="crops"))
    assert any("may not know the language" in note for note in report.notes)


def test_a_taken_folder_is_left_alone(model, bare, tmp_path):
    config = SynthesisConfig(method="crops", k=80)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(SynthesisError, match="not empty; choose another folder"):
            synthesize(bare, taken, model=model, config=config, force=force)
    synthesize(bare, tmp_path / "own", model=model, config=config)
    with pytest.raises(SynthesisError, match="--force"):
        synthesize(bare, tmp_path / "own", model=model, config=config)
    before = (tmp_path / "own" / "queries.jsonl").read_bytes()
    synthesize(
        bare, tmp_path / "own", model=model, config=SynthesisConfig(method="crops", k=80, seed=1), force=True
    )
    assert (tmp_path / "own" / "queries.jsonl").read_bytes() != before
    with pytest.raises(SynthesisError, match="is a file"):
        synthesize(bare, bare, model=model, config=config)


def test_a_failed_write_leaves_nothing(model, bare, tmp_path, monkeypatch):
    from routerretriever.errors import StorageError
    from routerretriever.synthesis import write

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "_query_line", full)
    with pytest.raises(StorageError, match="disk is full"):
        synthesize(bare, tmp_path / "out", model=model, config=SynthesisConfig(method="crops", k=80))
    assert [path.name for path in tmp_path.iterdir()] == ["bare.jsonl"]


def test_ids_that_no_tsv_can_hold_are_refused(model, tmp_path):
    lines = [json.dumps({"_id": f"d\t{n}", "text": text}) for n, text in enumerate(texts(40))]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    with pytest.raises(SynthesisError, match="tab or line break"):
        synthesize(
            tmp_path / "c.jsonl", tmp_path / "out", model=model, config=SynthesisConfig(method="crops", k=40)
        )


def test_queries_of_long_documents_are_made_from_all_their_passages(model, tmp_path):
    """And the passage that each was made from is noted."""
    parts = texts(120, words=40)
    source = write_documents(tmp_path / "c.jsonl", [". ".join(parts[n : n + 4]) for n in range(0, 120, 4)])
    config = SynthesisConfig(method="crops", k=30)
    report = synthesize(source, tmp_path / "out", model=model, config=config)
    assert (report.documents, report.in_passages) == (30, 30)
    assert report.passages > 80
    numbers = set()
    for line in (tmp_path / "out" / "queries.jsonl").read_text(encoding="utf-8").splitlines():
        numbers.update(json.loads(line)["metadata"]["passages"].values())
    assert numbers >= {0, 1, 2}
    assert len(Collection.load(tmp_path / "out").generated) == report.kept
