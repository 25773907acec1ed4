import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import collection_maker, make_checkpoint
from typer.testing import CliRunner

from routerretriever.bench import measures, results, tables
from routerretriever.bench.catalogue import SYSTEMS
from routerretriever.bench.oracles import Oracle
from routerretriever.bench.outcome import outcome
from routerretriever.bench.prepared import make_known
from routerretriever.bench.query_cache import queries_digest
from routerretriever.bench.runner import Bench
from routerretriever.bench.studies.registry import STUDIES
from routerretriever.bench.study_settings import STUDY_SETTINGS
from routerretriever.bench.suite import Suite
from routerretriever.bench.with_words import reciprocal_rank_fusion
from routerretriever.cli.app import app
from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.errors import CollectionError, SuiteError

TRAINING = "batch_size: 16, learning_rate: 0.01, temperature: 0.1, rank: 4"


def with_values(suite, **values):
    return suite.model_copy(update=values)


def write_suite(folder, checkpoint, make, epochs=4):
    for shift, name in enumerate(("x", "y", "z"), start=1):
        make(name, shift)
    make("stranger", 9, with_train=False)
    path = folder / "suite.yaml"
    path.write_text(
        f"""name: tiny
base: {checkpoint}
data: .
experts: [x, y, z]
unseen: [stranger]
seeds: [0, 1]
training: {{epochs: {epochs}, {TRAINING}}}
studies:
  experts: {{}}
  pilots: {{counts: [1, 500]}}
  caution: {{settings: [[0.0, 0.0], [0.1, 0.3]]}}
  route-layer: {{}}
  leave-one-out: {{}}
  second-expert: {{collections: [x]}}
  topics: {{experts: 5, max_queries: 20}}
  training-queries: {{counts: [10, null], collections: [x]}}
  branch-layer: {{layers: [1, 3], collections: [x]}}
  lora: {{ranks: [2], collections: [x]}}
  multi-task: {{}}
"""
    )
    return path


@pytest.fixture
def suite_file(tmp_path, checkpoint, make_collection):
    return write_suite(tmp_path, checkpoint, make_collection)


@pytest.fixture(scope="module")
def prepared(checkpoint, tmp_path_factory):
    """Two seeds of the tiny suite, trained and encoded; no test changes them."""
    folder = tmp_path_factory.mktemp("suite")
    suite = Suite.load(write_suite(folder, checkpoint, collection_maker(folder), epochs=1))
    bench = Bench(with_values(suite, studies={}), folder / "out")
    return bench, {seed: bench.prepare(seed) for seed in bench.suite.seeds}


@pytest.mark.slow
def test_the_whole_suite_and_its_resumption(suite_file, tmp_path, monkeypatch):
    run = CliRunner().invoke(app, ["bench", str(suite_file), "--out", str(tmp_path / "out"), "--json"])
    assert run.exit_code == 0, run.output
    document = json.loads(run.stdout)
    assert set(SYSTEMS) <= set(document["systems"])
    assert {"expert:x", "expert:y", "expert:z"} <= set(document["systems"])
    assert [len(study["points"]) for study in document["studies"]] == [3, 3, 2, 5, 3, 2, 2, 2, 2, 2, 5]
    means = {name: system["seen"]["mean"] for name, system in document["systems"].items()}
    hard = ("base", "routed", "random", "pilot-max", "dataset-oracle", "expert:x", "expert:y", "expert:z")
    assert means["instance-oracle"] >= max(means[name] for name in hard)
    assert means["instance-oracle-controlled"] < means["instance-oracle"]  # its surplus was selection noise
    assert means["dataset-oracle"] > max(means["base"], means["random"])
    for name in ("report.html", "report.md", "report.tex", "report.json"):
        assert "instance-oracle" in (tmp_path / "out" / name).read_text()
    assert "http" not in (tmp_path / "out" / "report.md").read_text()
    assert len(list((tmp_path / "out" / "runs").glob("x.*.trec"))) == len(document["systems"])

    # A part is lost, everything else is read: nothing is trained twice and the table is the same.
    shutil.rmtree(tmp_path / "out" / "vectors")
    monkeypatch.setattr("routerretriever.bench.models.train_expert", None)
    again = CliRunner().invoke(app, ["bench", str(suite_file), "--out", str(tmp_path / "out"), "--json"])
    assert again.exit_code == 0, again.output
    repeated = json.loads(again.stdout)
    first, second = document.pop("costs"), repeated.pop("costs")
    assert repeated == document
    assert set(first) == {"base", "multi-task", "linear-adapter", "routed", "map", "both"}
    for name, cost in first.items():
        assert cost["query_ms"] > 0 and cost["batched_query_ms"] > 0
        assert cost["training_seconds"] == second[name]["training_seconds"]
        assert (cost["bytes"] > 0) == (name != "base")
    assert first["routed"]["experts"] == 3 and first["linear-adapter"]["experts"] == 1
    assert "ms, a query alone" in (tmp_path / "out" / "report.md").read_text()


def test_another_training_setting_trains_again(suite_file, tmp_path):
    suite = with_values(Suite.load(suite_file), studies={})
    config = suite.training_config(0)
    job = {"x": ([Collection.load(tmp_path / "x")], config)}
    changed = {"x": (job["x"][0], replace(config, rank=2))}
    bench = Bench(suite, tmp_path / "out")
    first, again = (bench.trained("m", job).state.experts["x"] for _ in range(2))
    assert all(torch.equal(again.factors[layer][0], a) for layer, (a, _) in first.factors.items())
    assert bench.trained("m", changed).state.experts["x"].rank == 2 != first.rank


def test_other_data_trains_again_and_another_base_begins_anew(suite_file, tmp_path, make_collection):
    suite = with_values(Suite.load(suite_file), studies={})
    config, known = suite.training_config(0), Collection.load(tmp_path / "x")
    bench = Bench(suite, tmp_path / "out")
    first = bench.trained("m", {"x": ([known], config)}).state.experts["x"]
    documents = tuple(replace(document, text=f"{document.text} word99") for document in known.documents)
    other = bench.trained("m", {"x": ([replace(known, documents=documents)], config)}).state.experts["x"]
    assert any(not torch.equal(other.factors[layer][0], a) for layer, (a, _) in first.factors.items())

    words = [f"word{n}" for n in range(150)]
    base = make_checkpoint(tmp_path / "other-base", words=words)
    bench = Bench(with_values(suite, base=str(base)), tmp_path / "out")
    model = bench.trained("m", {"y": ([Collection.load(tmp_path / "y")], config)})
    assert model.fingerprint == bench.create().fingerprint and list(model.experts) == ["y"]


@pytest.mark.parametrize("change", ["documents", "ignore_identical_ids", "qrels"])
def test_rankings_in_the_cache_are_those_of_the_same_data(prepared, change):
    bench, _ = prepared
    known = bench.collections["x"]
    split = known.split("test")
    documents = tuple(replace(known.documents[0], id=document.id) for document in known.documents)
    changes = {
        "documents": lambda: (replace(known, documents=documents), split),
        "ignore_identical_ids": lambda: (replace(known, ignore_identical_ids=True), split),
        "qrels": lambda: (known, replace(split, qrels={q: {"d0": 1} for q in split.qrels})),
    }
    found = bench.documents(known)
    assert queries_digest(known, split, found) == queries_digest(known, split, found)
    assert queries_digest(known, split, found) != queries_digest(*changes[change](), found)


def test_routers_do_not_see_test_judgements(prepared, monkeypatch):
    """Every system but the oracles decides the same when the test judgements are turned around."""
    bench, seeds = prepared
    own, rng = seeds[0], np.random.default_rng(0)
    known = make_known(own, bench.suite.experts)
    shuffled = {}
    for name, queries in own.test.items():
        values = {
            c: replace(v, values={m: rng.permutation(x) for m, x in v.values.items()})
            for c, v in queries.candidates.items()
        }
        shuffled[name] = replace(queries, candidates=values)
    again = make_known(replace(own, test=shuffled), bench.suite.experts)
    differs = []
    for name, make in SYSTEMS.items():
        for queries, other in zip(own.test.values(), shuffled.values(), strict=True):
            first, second = make(), make()
            first.fit(known)
            second.fit(again)
            if isinstance(first, Oracle):
                weights = [
                    s.judged_weights(q, [seeds[1].test[q.name]])
                    for s, q in ((first, queries), (second, other))
                ]
            else:
                weights = [s.weights(q.queries) for s, q in ((first, queries), (second, other))]
            same = set(weights[0]) == set(weights[1]) and all(
                np.array_equal(weights[0][c], weights[1][c]) for c in weights[0]
            )
            if not same:
                differs.append(name)
    assert set(differs) <= {"dataset-oracle", "instance-oracle"}
    assert "instance-oracle" in differs


def test_candidates_are_what_the_model_encodes(prepared):
    bench, seeds = prepared
    model, queries = bench.model(0), seeds[0].test["y"]
    texts = list(queries.queries.texts)
    for name in ("base", "merged", "x"):
        np.testing.assert_allclose(
            queries.candidates[name].vectors, model.encode_query(texts, expert=name), atol=1e-5
        )
    part = bench.with_adapters(model, {"part": model.state.experts["x"].scaled(0.5)})
    rows = np.array([3, 0])
    blended = queries.blender.blend({"x": np.full(len(texts), 0.5)}, rows)
    np.testing.assert_allclose(blended, part.encode_query(texts, expert="part")[rows], atol=1e-5)


def test_the_routed_row_is_the_products_own_routing(prepared):
    """Cached vectors and the real forward pass under the real library give the same values."""
    from routerretriever.evaluation.evaluate import evaluate

    bench, seeds = prepared
    model = bench.model(0)
    model.build_library(bench.experts)
    system = SYSTEMS["routed"]()
    system.fit(make_known(seeds[0], bench.suite.experts))
    for name in ("x", "stranger"):
        real = evaluate(model, [bench.collections[name]]).collections[0].systems["routed"]
        cached = outcome(system, seeds[0].test[name])
        np.testing.assert_allclose(cached.ndcg, real.values["nDCG@10"], atol=1e-6)


def test_oracles_bound_what_they_choose_from(prepared):
    bench, seeds = prepared
    known = make_known(seeds[0], bench.suite.experts)
    for name, queries in seeds[0].test.items():
        values = {}
        for oracle in ("dataset-oracle", "instance-oracle", "instance-oracle-controlled"):
            system = SYSTEMS[oracle]()
            system.fit(known)
            values[oracle] = outcome(system, queries, [seeds[1].test[name]]).ndcg.mean()
        assert values["instance-oracle"] >= values["dataset-oracle"] - 1e-12
        assert values["instance-oracle"] >= values["instance-oracle-controlled"] - 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("colour: red", "line 8: unknown key 'colour'"),
        ("systems:\n  - base\n  - magic", "line 10: unknown system 'magic'"),
        ("studies: {nonsense: {}}", "unknown study 'nonsense'"),
        ("training: {speed: 3}", "unknown training option 'speed'"),
        ("whole: [nowhere]", "unknown collection 'nowhere'"),
        ("unseen: [stranger, x]", "line 8: the collection 'x' is named twice"),
        ("unseen: [/]", "line 8: '/' has no name"),
        ("experts: [bm25]", "line 8: 'bm25' is a system"),
        ("experts: [a b]", "line 8: 'a b' cannot be an expert's name"),
        ("experts: x", "'experts' must be a list"),
        ("preset: slow", "unknown preset 'slow'"),
        ("name: [", "is not valid YAML"),
        ("seeds: 3", "line 8: 'seeds' must be a list, but is 3"),
        ("seeds:\n  - 0\n  - one", "line 10: 'seeds.1' must be a whole number, but is \"one\""),
        ("seeds: []", "line 8: 'seeds' "),
        ("unseen: [2024]", "line 8: 'unseen.0' must be text, but is 2024"),
        ("test_queries: '60'", "line 8: 'test_queries' must be a whole number, but is \"60\""),
        ("test_queries: 0", "line 8: 'test_queries' must be greater than or equal to 1, but is 0"),
        ("test_splits: dev", "line 8: 'test_splits' must be a mapping of keys to values, but is \"dev\""),
        ("ignore_identical_ids: {x: 2}", "line 8: 'ignore_identical_ids.x' must be true or false, but is 2"),
        ("ignore_identical_ids: {z: true}", "line 8: unknown collection 'z'"),
        ("sources: {x: y}", "line 8: unknown key 'sources'"),
        ("published: {a: {x: high}}", "line 8: 'published.a.x' must be a valid number, but is \"high\""),
        ("studies: [experts]", "line 8: 'studies' must be a mapping of keys to values"),
        ("studies:\n  pilots:\n    counts: 5", "line 10: 'studies.pilots.counts' must be a list, but is 5"),
        ("studies:\n  pilots: {colour: red}", "line 9: unknown key 'studies.pilots.colour'"),
        (
            "studies:\n  caution: {settings: [[0.1, 2]]}",
            "line 9: 'studies.caution.settings.0.1' must be less than or",
        ),
        ("studies: {lora: {collections: [y]}}", "line 8: unknown collection with an expert 'y'"),
        (
            "training:\n  epochs: 3\n  rank: eight",
            "line 10: 'training.rank' must be a whole number, but is \"eight\"",
        ),
        ("multi_task: {epochs: 1.5}", "line 8: 'multi_task.epochs' must be a whole number, but is 1.5"),
        ("training: 3", "line 8: 'training' must be a mapping of keys to values, but is 3"),
    ],
)
def test_a_wrong_suite_fails_before_any_work(tmp_path, checkpoint, change, message):
    lines = {"name": "name: n", "base": f"base: {checkpoint}", "experts": "experts: [x]", "data": "data: ."}
    key = change.partition(":")[0]
    lines = {k: v for k, v in lines.items() if k != key}
    text = "\n".join(lines.values()) + "\n" + "\n" * (7 - len(lines)) + change + "\n"
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SuiteError, match="s.yaml") as caught:
        Suite.load(tmp_path / "s.yaml")
    assert message in str(caught.value)


def test_collections_of_a_suite_have_the_names_that_they_have_elsewhere(tmp_path, checkpoint):
    (tmp_path / "pairs.jsonl").touch()
    path = tmp_path / "s.yaml"
    path.write_text(f"{{name: n, base: {checkpoint}, data: ., experts: [pairs.jsonl], whole: [pairs]}}")
    suite = Suite.load(path)
    assert (suite.experts, dict(suite.sources)) == (("pairs",), {"pairs": "pairs.jsonl"})
    path.write_text(f"{{name: n, base: {checkpoint}, experts: ['ir_datasets:vaswani', BeIR/scifact]}}")
    assert Suite.load(path).experts == ("vaswani", "scifact")


def test_identical_ids_of_a_suite(suite_file):
    with suite_file.open("a") as file:
        file.write("ignore_identical_ids: {x: true}\n")
    loaded = Suite.load(suite_file).load_collections()
    assert [name for name, part in loaded.items() if part.ignore_identical_ids] == ["x"]


def test_missing_collections_and_splits_are_named(suite_file, tmp_path):
    suite = Suite.load(suite_file)
    with pytest.raises(SuiteError, match="'gone' of the suite 'tiny'"):
        Bench(with_values(suite, sources={**suite.sources, "gone": "gone"}), tmp_path / "o")
    with pytest.raises(SuiteError, match="'stranger'.*no split 'train'"):
        Bench(with_values(suite, experts=("x", "stranger")), tmp_path / "o")
    with pytest.raises(SuiteError, match="cannot be read"):
        Suite.load(tmp_path / "nothing.yaml")


def test_each_study_has_settings():
    assert set(STUDIES) == set(STUDY_SETTINGS)


def test_the_suites_that_come_with_the_project_are_valid(request):
    folder = request.config.rootpath / "suites"
    names = {path.stem: Suite.load(path) for path in folder.glob("*.yaml")}
    assert {"paper", "real", "real-mpnet", "demo", "anchored"} <= set(names)
    assert len(names["real"].experts) == 9
    assert len(names["paper"].experts) == len(names["paper"].unseen) == 7
    assert names["paper"].training_config(0).in_batch
    assert names["real-mpnet"].training_config(0).max_queries == 1000
    assert {*names["real-mpnet"].experts, *names["real-mpnet"].unseen} <= set(names["real"].sources)


def test_a_split_that_is_tested_on_is_not_held_out(make_collection):
    collection = Collection.load(make_collection("c"))
    moved = collection.tested_on("dev")
    assert moved.split("test").queries == collection.split("dev").queries
    assert "dev" not in moved.splits
    assert not set(moved.train_and_held_out()[1].queries) & set(collection.split("dev").queries)
    with pytest.raises(CollectionError, match="no split 'gone'"):
        collection.tested_on("gone")


def test_generated_queries_become_the_train_split(make_collection, tmp_path):
    collection = Collection.load(make_collection("c", with_train=False))
    path = tmp_path / "generated.jsonl"
    rows = [
        {"_id": "d1", "query": "first"},
        {"_id": "unknown", "query": "no"},
        {"_id": "d2", "query": "second"},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    train = collection.with_generated_queries(str(path)).split("train")
    assert sorted(train.queries.values()) == ["first", "second"]
    assert isinstance(train, Split)
    path.write_text(json.dumps(rows[1]))
    with pytest.raises(CollectionError, match="no generated query"):
        collection.with_generated_queries(str(path))


def test_measures():
    assert measures.recovered_share(0.6, 0.5, 0.7) == pytest.approx(0.5)
    assert measures.recovered_share(0.6, 0.5, 0.5) is None
    assert measures.hurt_and_helped(np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.5, 0.5])) == pytest.approx(
        (1 / 3, 1 / 3)
    )
    assert measures.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06}
    )
    assert measures.abstention_auroc([np.array([2.0, 3.0])], [np.array([0.0, 1.0])]) == 1.0
    assert measures.abstention_auroc([np.array([2.0])], []) is None
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0, 1, 4000)
    good = measures.calibration(predicted, predicted + rng.normal(0, 0.1, 4000))
    bad = measures.calibration(predicted, predicted - 0.3)
    assert good.error < 0.02
    assert bad.error == pytest.approx(0.3)
    assert sum(good.counts) == 4000
    assert measures.calibration(np.array([]), np.array([])) is None


def test_reciprocal_rank_fusion():
    one, two = np.array([[3, 1, 2, -1]], np.int32), np.array([[1, 4, -1, -1]], np.int32)
    assert reciprocal_rank_fusion(one, two, depth=5).tolist() == [[1, 3, 4, 2, -1]]


def test_latex_and_markdown_escape_and_mark(prepared, tmp_path):
    bench, seeds = prepared
    result = {seed: bench.evaluate(seed, seeds) for seed in seeds}
    document = results.summarise(bench, result, [])
    assert r"\textbf{routed}" in tables.latex(document)
    assert "| **routed** |" in tables.markdown(document)
    assert "*instance-oracle*" in tables.markdown(document)
    assert document["notes"] == []
    assert document["collections"]["x"]["held_out"] == "dev"
    assert sum(document["collections"]["x"]["chosen"].values()) == document["collections"]["x"]["queries"]
