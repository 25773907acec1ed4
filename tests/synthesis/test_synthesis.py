import json
import random
import re
import time
from collections import Counter

import numpy as np
import pytest
from documents import texts, write_documents
from typer.testing import CliRunner

from routerretriever import Collection, RouterRetriever, TrainingConfig, train_expert
from routerretriever.cli.app import app
from routerretriever.data.document import Document
from routerretriever.data.text import text_key
from routerretriever.errors import CollectionError, ExpertError, SynthesisError
from routerretriever.lora.expert_info import ExpertInfo
from routerretriever.routing.self_check import routing_quality
from routerretriever.sharing.model_card import model_card
from routerretriever.storage.model_folder import read_expert_info
from routerretriever.synthesis import Doc2QueryConfig, Limits, LlmConfig, SynthesisConfig, synthesize
from routerretriever.synthesis.crops import LONGEST, crops
from routerretriever.synthesis.filters import MERGED, Dropped, distinct
from routerretriever.synthesis.held_out import held_out_ids
from routerretriever.synthesis.passages import MIN_PASSAGES, READ_CHARACTERS, Passages, load_documents
from routerretriever.synthesis.queries import Generated
from routerretriever.synthesis.titles import Statistics, titles, words_of

ESSAY = """# Kestrel operations

Kestrels hover above the motorway verge. The falconer records each hover.

## Nest boxes

Wooden nest boxes attract breeding pairs, and readLogFile counts them in nest_box_log.
"""


@pytest.fixture
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


@pytest.fixture
def bare(tmp_path):
    return write_documents(tmp_path / "bare.jsonl", texts(), year=2020)


def passages_of(*contents):
    filler = [f"filler{n} text{n} of{n}" for n in range(MIN_PASSAGES)]
    found = Passages.of([Document(f"d{n}", text) for n, text in enumerate([*contents, *filler])])
    by_content = {passage.content: passage for passage in found.items}
    return [by_content[" ".join(text.split())] for text in contents], found.items


# -- passages --------------------------------------------------------------------------------------


def test_passages_group_equal_texts_and_set_the_rest_aside():
    contents = [f"text number {n}" for n in range(12)]
    documents = [Document(f"a{n}", text) for n, text in enumerate(contents)]
    documents += [Document("b0", contents[0]), Document("empty", " ... ")]
    documents += [Document(f"c{n}", "intentionally left blank") for n in range(5)]
    found = Passages.of(documents)
    assert (len(found.items), found.empty, found.copies, found.boilerplate, found.shortened) == (12, 1, 1, 5, 0)
    assert next(p for p in found.items if p.text == contents[0]).documents == ("a0", "b0")
    assert Passages.of(reversed(documents)) == found


def test_sample_is_independent_of_order_and_decided_by_the_seed():
    documents = [Document(f"d{n}", text) for n, text in enumerate(texts())]
    one = Passages.of(documents).sample(20, 0)
    random.Random(1).shuffle(documents)
    assert Passages.of(documents).sample(20, 0) == one
    assert Passages.of(documents).sample(20, 1) != one


def test_sources(bare, make_collection, tmp_path):
    assert load_documents(bare)[0] == "bare"
    assert load_documents(bare)[1][0].metadata == {"year": 2020}
    folder = make_collection("whole")
    (folder / "queries.jsonl").unlink()
    assert load_documents(folder)[0] == "whole"
    assert len(load_documents(folder)[1]) == 60
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("query\tpositive\nask\tanswer\n")
    assert load_documents(pairs)[1][0].text == "answer"
    with pytest.raises(CollectionError, match="no collection at"):
        load_documents(tmp_path / "nothing")


# -- methods ------------------------------------------------------------------------------------------


def test_crops_are_short_spans_of_their_passage_with_words_left_out():
    chosen, _ = passages_of(" ".join(f"w{n}" for n in range(200)))
    made = list(crops(chosen, 200, 0))
    numbers = [[int(word[1:]) for word in item.text.split()] for item in made]
    assert all(row == sorted(row) and row[-1] - row[0] < LONGEST for row in numbers)
    assert any(row[-1] - row[0] >= len(row) for row in numbers)  # words are missing
    assert len({len(row) for row in numbers}) > 8
    assert np.median([len(row) for row in numbers]) < LONGEST / 2


def test_titles_are_headings_sentences_phrases_and_keywords():
    chosen, everything = passages_of(ESSAY)
    made = {item.text for item in titles(chosen, 60, 0, everything)}
    assert {"Kestrel operations", "Nest boxes"} <= made
    assert "Kestrels hover above the motorway verge." in made
    assert any("breeding pairs" in text for text in made)
    keywords = [text for text in made if text == text.lower() and "." not in text]
    assert keywords and all(word in ESSAY.lower() for text in keywords for word in text.split())
    assert not any({"the", "them"} & set(text.split()) for text in keywords)


def test_the_title_of_a_document_is_a_heading():
    documents = [Document(f"d{n}", f"text{n} body{n} here{n}", title=f"Name {n}") for n in range(12)]
    items = Passages.of(documents).items
    made = [item.text for item in titles(items, 3, 0)]
    assert sum(bool(re.fullmatch(r"Name \d+", text)) for text in made) > 4


def test_identifiers_are_words():
    assert words_of("readLogFile(nest_box_log)") == ["read", "Log", "File", "nest", "box", "log"]


def test_common_words_are_no_keywords_in_any_language():
    contents = [f"der die wort{n} ding{n}" for n in range(40)]
    items = Passages.of([Document(str(n), text) for n, text in enumerate(contents)]).items
    assert {"der", "die"} <= Statistics.of(items).common
    assert "wort1" not in Statistics.of(items).common


@pytest.mark.parametrize("method", ["crops", "titles"])
def test_methods_are_decided_by_seed_and_content_alone(method):
    documents = [Document(f"d{n}", text) for n, text in enumerate(texts())]

    def made(order, seed=0):
        items = Passages.of(order).items
        return {
            (g.passage.key, g.text) for g in (crops(items, 2, seed) if method == "crops" else titles(items, 2, seed))
        }

    assert made(documents) == made(documents[::-1])
    assert made(documents, 1) != made(documents)


# -- the filter ------------------------------------------------------------------------------------


def test_normalised_queries():
    assert text_key(" What IS  ＡＴＰ? ") == text_key("what is atp")


def test_distinct_queries_and_why_the_others_went():
    (one, two), everything = passages_of("alpha beta gamma delta", "epsilon zeta eta theta")
    made = [
        Generated(one, "alpha beta", "crops"),
        Generated(one, "Alpha  beta.", "crops"),
        Generated(two, "ALPHA beta", "titles"),
        Generated(one, "a", "crops"),
        Generated(one, "x" * 500, "crops"),
        Generated(one, "alpha beta gamma delta", "crops"),
        *(Generated(passage, "too general", "crops") for passage in everything[:4]),
    ]
    dropped = Dropped()
    queries = distinct(made, dropped)
    assert [query.text.lower() for query in queries] == ["alpha beta"]
    assert set(queries[0].passages) == {one, two}
    assert dropped.counts == {
        "a repetition": 1,
        "shorter than 3 letters": 1,
        "longer than 400 letters": 1,
        "a copy of its passage": 1,
        "made for more than 3 passages": 4,
        MERGED: 1,
    }
    assert len(queries) + sum(dropped.counts.values()) == len(made)
    assert dropped.examples["shorter than 3 letters"] == ["a"]
    assert distinct(made[::-1], Dropped()) == queries


def test_only_queries_whose_passage_is_found_are_kept(model, bare, tmp_path):
    few = synthesize(bare, tmp_path / "few", model=model, config=SynthesisConfig(method="crops", k=1))
    many = synthesize(bare, tmp_path / "many", model=model, config=SynthesisConfig(method="crops", k=80))
    assert few.dropped["passage not among the first 1"] > 0
    assert not any("not among" in reason for reason in many.dropped)
    assert few.kept < many.kept
    collection = Collection.load(tmp_path / "few")
    queries = {**collection.split("train").queries, **collection.split("dev").queries}
    found = model.similarity(
        model.encode_query(list(queries.values()), expert="base"), model.embed_collection(collection)
    ).argmax(dim=1)
    judged = {**collection.split("train").qrels, **collection.split("dev").qrels}
    for query, column in zip(queries, found.tolist(), strict=True):
        assert collection.documents[column].id in judged[query]


def test_all_queries_of_a_passage_are_on_one_side(model, bare, tmp_path):
    report = synthesize(bare, tmp_path / "out", model=model, config=SynthesisConfig(method="mixture", k=40))
    collection = Collection.load(tmp_path / "out")
    train, held_out = collection.train_and_held_out()
    assert (len(train), len(held_out)) == (report.train, report.held_out)
    sides = [{document for grades in side.qrels.values() for document in grades} for side in (train, held_out)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert 0.1 < report.held_out / report.kept <= 0.2


def test_passages_that_share_a_query_stay_together():
    items = Passages.of([Document(str(n), text) for n, text in enumerate(texts(30))]).items
    shared = [Generated(p, "shared words", "crops") for p in items[:3]]
    own = [Generated(p, f"own words {n}", "crops") for n, p in enumerate(items)]
    queries = distinct([*shared, *own], Dropped())
    held_out = held_out_ids(queries)
    group = {query.id for query in queries if set(query.passages) & set(items[:3])}
    assert len(group) == 4
    assert group <= held_out or not group & held_out


# -- the collection --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["crops", "titles", "mixture"])
def test_the_new_collection_trains_an_expert_that_says_so(method, model, bare, tmp_path):
    report = synthesize(bare, tmp_path / "made", model=model, config=SynthesisConfig(method=method, queries=200, k=40))
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
    assert f"| made | made (queries generated from bare) | {report.train} | {report.held_out} (generated) |" in card
    assert f"{report.train} of {report.train} were generated" in card
    assert f"So were {report.held_out} of the {report.held_out} queries that the scores above were measured on" in card
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
    report = synthesize(tmp_path / "one", tmp_path / "two", model=model, config=SynthesisConfig(method="titles", k=80))
    assert report.source == Collection.load(tmp_path / "two").source == "bare"
    (tmp_path / "two" / "synthesis.json").write_text("{")
    with pytest.raises(CollectionError, match="synthesis.json is damaged.*restore it"):
        Collection.load(tmp_path / "two")


def test_gains_on_generated_queries_are_marked_wherever_they_are_shown(checkpoint, bare, make_collection, tmp_path):
    """By train, the list of experts, the library, the card, the log and the comparison; those on real queries are not."""
    model, made, real = tmp_path / "model", tmp_path / "made", make_collection("real")
    run("synthesize", bare, "--out", made, "--with", "titles", "--base", checkpoint, "-k", "40")
    few = ["--base", checkpoint, "--epochs", "1", "--rank", "4", "--force"]
    trained = run("train", model, made, *few)
    assert re.search(r"\d+ generated queries\)", trained.stdout)
    assert "measured on generated queries" in trained.stderr
    told = run("train", model, real, *few)
    assert "generated queries" not in told.stdout + told.stderr
    listed = run("experts", model).stdout
    assert listed.count("(queries") == listed.count("(generated)") == 1  # of two experts
    shown = run("library", model, made, real).stdout
    assert "made (generated)" in shown and "real (generated)" not in shown
    card = (model / "README.md").read_text()
    assert card.count("| made (generated) |") == 1 and "| real |" in card
    loaded = RouterRetriever.from_pretrained(model, device="cpu")
    card = model_card(loaded.encoder, quality=routing_quality(loaded.state.policy))  # as when it is pushed
    assert card.count("| made (generated) |") == 2 and "real (generated)" not in card
    assert "(generated): measured on generated queries" in card
    assert loaded.library.generated == {"made": "bare"}
    logged = run("experts", "log", model).stdout
    assert logged.count("measured on made (generated): ") == 1 and "measured on real: " in logged
    assert re.search(r"added made \(held-out gain [^()]+\(generated\)\)", logged)
    assert re.search(r"added real \(held-out gain [^()]+\)", logged)
    compared = run("experts", "diff", model, "made", "real").stdout
    assert "gain on made (generated)" in compared and "gain on real " in compared
    rebuilt = loaded.build_library([Collection.load(real, name="made")])  # real ones in their place
    assert rebuilt.generated == {}


def test_experts_of_older_models_and_of_real_queries_say_nothing(model, make_collection, tmp_path):
    report = train_expert(
        model, Collection.load(make_collection("real")), config=TrainingConfig(epochs=1, rank=4), force=True
    )
    assert report.info.generated == {}
    assert "nobody asked" not in model_card(model.encoder)
    (tmp_path / "expert.json").write_text('{"collection": "old", "queries": 5}')
    assert read_expert_info(tmp_path) == ExpertInfo("old", 5)
    (tmp_path / "expert.json").write_text('{"collection": "old", "queries": 5, "generated": {"crops": 5}}')
    old = read_expert_info(tmp_path)
    assert old.gain_on_generated and old.trained_on == "old (generated queries)"


def test_queries_generated_elsewhere_are_marked_too(make_collection, tmp_path):
    (tmp_path / "generated.jsonl").write_text('{"_id": "d1", "query": "word1"}\n')
    collection = Collection.load(make_collection("c")).with_generated_queries(str(tmp_path / "generated.jsonl"))
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
    one = synthesize(bare, tmp_path / "one", model=model, config=SynthesisConfig(method="crops", queries=40, k=80))
    assert (one.asked, one.generated) == (40, 40)
    two = synthesize(bare, tmp_path / "two", model=model, config=SynthesisConfig(method="crops", queries=160, k=80))
    assert (two.asked, two.generated) == (80, 160)
    assert "are few" in " ".join(one.notes)


def test_copies_of_a_passage_are_all_relevant(model, tmp_path):
    contents = texts(40)
    source = write_documents(tmp_path / "c.jsonl", contents + contents[:1])
    synthesize(source, tmp_path / "out", model=model, config=SynthesisConfig(method="crops", k=41))
    qrels = [grades for split in Collection.load(tmp_path / "out").splits.values() for grades in split.qrels.values()]
    assert any("d0" in grades for grades in qrels)
    assert all(("d0" in grades) == ("d40" in grades) for grades in qrels)


def test_an_expert_of_a_model_can_look_for_the_passages(model, bare, make_collection, tmp_path):
    train_expert(model, Collection.load(make_collection("x")), config=TrainingConfig(epochs=1, rank=4), force=True)
    report = synthesize(bare, tmp_path / "out", model=model, expert="x", config=SynthesisConfig(method="crops", k=40))
    assert report.settings["expert"] == "x"
    with pytest.raises(ExpertError, match="nobody"):
        synthesize(bare, tmp_path / "o2", model=model, expert="nobody", config=SynthesisConfig(method="crops"))


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (["alone in the world"], "There are 1 different texts"),
        (["the same"] * 50, r"There are 0 different texts \(0 empty documents, 50 with a text"),
        (["", "  ", "..."] * 10, r"There are 0 different texts \(30 empty"),
        (texts(MIN_PASSAGES - 1), "split long ones into passages"),
    ],
)
def test_corpora_that_teach_nothing_are_refused(model, tmp_path, contents, message):
    source = write_documents(tmp_path / "c.jsonl", contents)
    with pytest.raises(SynthesisError, match=message):
        synthesize(source, tmp_path / "out", model=model)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["crops", "titles"])
def test_huge_and_empty_texts_are_stated(method, model, tmp_path, monkeypatch):
    """Ten megabytes, of which neither queries nor vectors need more than the beginning."""
    tokenise, longest = model.encoder.transformer.preprocess, []

    def watched(inputs, **kwargs):
        longest.append(max(map(len, inputs)))
        return tokenise(inputs, **kwargs)

    monkeypatch.setattr(model.encoder.transformer, "preprocess", watched)
    huge = "# A heading\n\n" + "word1 word2 word3. " * 550_000
    assert len(huge) > 10_000_000
    source = write_documents(tmp_path / "c.jsonl", [*texts(40), huge, ""])
    started = time.monotonic()
    report = synthesize(source, tmp_path / "out", model=model, config=SynthesisConfig(method=method, k=40))
    assert time.monotonic() - started < 60  # minutes, where the whole was tokenised
    assert max(longest) < 10_000
    assert report.set_aside == {"without a text": 1}
    assert "Only the beginning of 1 long documents was read" in report.notes[0]
    collection = Collection.load(tmp_path / "out")
    assert [len(d.text) for d in collection.documents[-2:]] == [len(huge), 0]
    assert len(Passages.of(collection.documents).items[0].text) <= READ_CHARACTERS


def test_a_base_that_finds_nothing_is_named(model, tmp_path):
    unknown = [" ".join(f"слово{n * 7 + m}" for m in range(9)) for n in range(300)]
    source = write_documents(tmp_path / "c.jsonl", unknown)
    report = synthesize(source, tmp_path / "out", model=model, config=SynthesisConfig(method="crops"))
    assert any("may not know the language" in note for note in report.notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "guess"}, "'method' should be 'crops', 'titles', 'mixture', 'doc2query' or 'llm', and is 'guess'"),
        ({"method": "llm"}, "--endpoint URL --model NAME"),
        ({"queries": 0}, "'queries' should be greater than or equal to 1, and is 0"),
        ({"k": 2.5, "seed": None}, "'k' should be .* and is 2.5; 'seed' should be a valid integer, and is None"),
        ({"way": "crops"}, "there is no setting 'way'"),
        ({"doc2query": {"top_p": 2}}, "'doc2query.top_p' should be less than or equal to 1, and is 2|'top_p' should"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(SynthesisError, match=message):
        SynthesisConfig(**settings)


def test_settings_of_a_model_are_checked():
    with pytest.raises(SynthesisError, match="LlmConfig: 'model' is required"):
        LlmConfig(endpoint="http://x/v1")
    with pytest.raises(SynthesisError, match="'rate' should be greater than 0, and is 0"):
        LlmConfig(endpoint="http://x/v1", model="m", rate=0)
    with pytest.raises(SynthesisError, match="'batch_size' should be"):
        Doc2QueryConfig(batch_size=0)
    with pytest.raises(SynthesisError, match="'price_in' should be a finite number"):
        Limits(price_in=float("nan"))


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
    synthesize(bare, tmp_path / "own", model=model, config=SynthesisConfig(method="crops", k=80, seed=1), force=True)
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
        synthesize(tmp_path / "c.jsonl", tmp_path / "out", model=model, config=SynthesisConfig(method="crops", k=40))


# -- the command -----------------------------------------------------------------------------------


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return result


def test_the_command(checkpoint, bare, tmp_path):
    out = tmp_path / "made"
    shown = run("synthesize", bare, "--out", out, "--with", "titles", "--base", checkpoint, "-k", "5")
    assert "passage not among the first 5" in re.sub(r"\s+", " ", shown.stdout)
    assert "Next: routerretriever train MODEL" in shown.stdout
    told = json.loads(
        run(
            "synthesize", bare, "--out", out, "--with", "titles", "--base", checkpoint, "-k", "5", "--force", "--json"
        ).stdout
    )
    assert told["kept"] == told["train"] + told["held_out"]
    assert Counter(told["dropped"])["passage not among the first 5"] > 0
    model = tmp_path / "model"
    run("train", model, out, "--base", checkpoint, "--epochs", "1", "--rank", "4", "--force")
    listed = json.loads(run("experts", model, "--json").stdout)
    assert listed["experts"]["made"]["generated"] == {"titles": told["train"]}
    again = run(
        "synthesize", bare, "--out", tmp_path / "b", "--retriever", model, "--expert", "made", "-k", "40", "--json"
    )
    assert json.loads(again.stdout)["settings"]["expert"] == "made"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--with", "llm"], "--endpoint URL --model NAME"),
        (["--with", "llm", "--endpoint", "http://x/v1", "--model", "m", "--max-cost", "1"], "needs prices"),
        (["--with", "llm", "--endpoint", "http://x/v1", "--model", "m", "--body", "{"], "--body is not JSON"),
        (["--with", "llm", "--endpoint", "http://x/v1", "--model", "m", "--body", "[]"], "--body is a JSON object"),
        (["--with", "llm", "--endpoint", "ftp://x", "--model", "m"], "is not an endpoint"),
        (["--with", "doc2query", "--finish"], "nothing to finish"),
    ],
)
def test_the_command_refuses_in_one_sentence(checkpoint, bare, tmp_path, arguments, message):
    result = run("synthesize", bare, "--out", tmp_path / "o", "--base", checkpoint, *arguments, code=1)
    assert message in re.sub(r"\s+", " ", result.stderr)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--endpoint", "http://x/v1"], "--endpoint belongs to --with llm, not to --with mixture."),
        (["--with", "crops", "--model", "m"], "--model belongs to --with doc2query or llm, not to --with crops."),
        (["--with", "titles", "--finish"], "--finish belongs to --with doc2query or llm"),
        (["--with", "llm", "--batch-size", "16"], "--batch-size belongs to --with doc2query, not to --with llm."),
        (["--with", "doc2query", "--prompt", "p", "--max-cost", "0"], "--prompt, --max-cost belong to --with llm,"),
        (["--retriever", "m", "--base", "all-MiniLM-L6-v2"], "--retriever takes the place of --base"),
        (["--expert", "made"], "--expert names an expert of --retriever"),
        (["--with", "guess"], "'guess' is not one of 'crops', 'titles', 'mixture', 'doc2query', 'llm'."),
        (["--with", "guess", "--endpoint", "http://x/v1"], "'guess' is not one of"),
    ],
)
def test_options_of_another_method_are_a_usage_error(bare, tmp_path, arguments, message):
    result = run("synthesize", bare, "--out", tmp_path / "o", *arguments, code=2)
    assert message in re.sub(r"[\s│]+", " ", result.stderr)
    assert not (tmp_path / "o").exists()
