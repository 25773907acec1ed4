import json
from dataclasses import replace

import numpy as np
import pytest
from tiny import collection_maker, make_checkpoint, random_adapter
from training import QUICK

from routerretriever import Collection, RouterRetriever, add_expert, evaluate, train_expert
from routerretriever.cli import experts as cli_experts
from routerretriever.encoder.embedding_cache import EmbeddingCache
from routerretriever.errors import ExpertError, FingerprintError, HarmError, LibraryError
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.experts import check_harm
from routerretriever.experts import cross_validated_weights as cross_validation
from routerretriever.experts.check_harm import check_expert


def switched(folder, target):
    """The same questions three times over, about documents whose topics have changed places."""
    (target / "qrels").mkdir(parents=True)
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    for row in corpus:
        topic, _, *plain = row["text"].split()
        other = f"word{(int(topic.removeprefix('word')) + 1) % 4}"
        row["text"] = " ".join([other, other, *plain])
    (target / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)) + "\n")
    asked = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    copies = [{"_id": f"{row['_id']}-{copy}", "text": row["text"]} for row in asked for copy in range(3)]
    (target / "queries.jsonl").write_text("\n".join(map(json.dumps, copies)) + "\n")
    for split in ("train", "dev", "test"):
        rows = [line.split("\t") for line in (folder / "qrels" / f"{split}.tsv").read_text().splitlines()]
        lines = ["\t".join(rows[0])] + [
            f"{q}-{copy}\t{d}\t{grade}" for q, d, grade in rows[1:] for copy in range(3)
        ]
        (target / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return target


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """A model with an expert for x and a library of x, and models with one expert for y and one for z."""
    root = tmp_path_factory.mktemp("additions")
    make = collection_maker(root)
    folders = {"x": make("x", 1), "y": make("y", 2)}
    folders["z"] = switched(folders["x"], root / "z")
    collections = {name: Collection.load(folder) for name, folder in folders.items()}
    for name, collection in collections.items():
        model = RouterRetriever.create(str(checkpoint), device="cpu")
        report = train_expert(model, collection, config=QUICK)
        # The optimism of so few queries is large; these tests are about adding experts.
        model.state = model.state.with_info(name, replace(report.info, selection=""))
        if name == "x":
            model.add_expert("spare", random_adapter(model.encoder.lora_layers, 1))
            model.build_library([collection])
        model.save_pretrained(root / f"model-{name}")
    return root, collections


@pytest.fixture
def model(made):
    return RouterRetriever.from_pretrained(made[0] / "model-x", device="cpu")


def test_an_expert_that_fools_the_router_is_refused(model, made):
    """z's questions are x's, so the router cannot tell them apart, and there are more of them."""
    root, known = made
    library, both = model.library, [known["x"], known["z"]]
    with pytest.raises(HarmError, match=r"lose over 0.5 nDCG@10 points: x -\d.*not added.*--force"):
        add_expert(model, root / "model-z", collections=both)
    assert (list(model.experts), model.library.experts) == (["x", "spare"], ("x", "spare"))
    np.testing.assert_array_equal(model.library.gains, library.gains)
    name, report = add_expert(model, root / "model-z", collections=both, force=True)
    (x,) = report.harmed
    assert (name, x.collection, x.in_library) == ("z", "x", True)
    assert x.change < -0.05 and x.routed_to_it > 0.2 and x.before > x.base
    z = next(effect for effect in report.effects if effect.collection == "z")
    assert not z.in_library and z.change > 0
    assert model.library.experts == ("x", "spare", "z") and model.library.unmeasured() == {}
    assert report.to_dict()["harmed"] == ["x"]
    allowed = check_expert(
        model, "z", both, margin=1.0
    )  # the same question, asked of an expert that is there
    assert not allowed.harmed
    assert all(effect.in_library for effect in allowed.effects)


def test_an_expert_of_its_own_domain_comes_in_measured(model, made):
    root, known = made
    folder, both = root / "model-y" / "experts" / "y", [known["x"], known["y"]]
    name, report = add_expert(model, folder, "why", collections=both, margin=0.05)
    assert (name, report.harmed, report.unchecked) == ("why", (), ())
    x, y = report.effects
    assert abs(x.change) <= 0.05 and y.change > 0.05 and y.routed_to_it > 0.5
    assert model.library.collections() == ("x", "y") and model.library.unmeasured() == {}
    fresh = RouterRetriever.from_pretrained(root / "model-x", device="cpu")
    add_expert(fresh, root / "model-y" / "experts" / "y", "why", force=True)
    built = fresh.build_library([known["x"], known["y"]])
    np.testing.assert_array_equal(built.gains, model.library.gains)
    assert built.versions == model.library.versions


def test_the_scores_are_those_of_routed_vectors(model, made, monkeypatch):
    """With every pilot left in, the check must find what encoding and evaluating finds."""
    root, known = made
    everything = lambda library, cases: [([np.arange(len(c)) for c in cases], np.ones(len(library), bool))]  # noqa: E731
    monkeypatch.setattr(cross_validation, "folds", everything)
    model.add_expert("third", random_adapter(model.encoder.lora_layers, 3))  # so that merged is the fallback
    model.build_library([known["x"]])
    split, documents = known["x"].train_and_held_out()[1], model.embed_collection(known["x"])
    texts = list(split.queries.values())

    def routed():
        return float(ndcg_at_10(model.encode_query(texts), split, documents, known["x"]).mean())

    before = routed()
    add_expert(model, root / "model-z" / "experts" / "z", force=True)
    report = check_expert(model, "z", [known["x"], known["z"]])
    model.set_library(report.library)
    assert report.effects[0].before == pytest.approx(before, abs=1e-6)
    assert report.effects[0].after == pytest.approx(routed(), abs=1e-6)


def test_no_query_is_routed_by_itself_and_no_test_judgement_is_read(model, made, monkeypatch):
    root, known = made
    add_expert(model, root / "model-y" / "experts" / "y", force=True)
    seen, folds = [], cross_validation.folds

    def watched(library, cases):
        for rows, kept in folds(library, cases):
            asked = {
                case.measured.queries[row] for case, part in zip(cases, rows, strict=True) for row in part
            }
            remaining = {
                e for e, keep, m in zip(library.examples, kept, library.measured, strict=True) if keep and m
            }
            seen.append((asked, remaining))
            yield rows, kept

    monkeypatch.setattr(cross_validation, "folds", watched)
    report = check_expert(model, "y", [known["x"]])
    assert cli_experts._MARGIN == 100 * check_harm.MARGIN == 100 * report.margin
    assert len(seen) == 10
    assert all(asked and remaining and not asked & remaining for asked, remaining in seen)
    held_out = set(known["x"].train_and_held_out()[1].queries.values())
    assert set.union(*(asked for asked, _ in seen)) == held_out
    test = known["x"].split("test")
    blind = replace(test, qrels={query: {"d0": 1} for query in test.qrels})
    blinded = replace(known["x"], splits={**known["x"].splits, "test": blind})
    assert check_expert(model, "y", [blinded]).to_dict() == report.to_dict()


def test_data_that_is_missing_or_another_is_told(model, made):
    root, known = made
    with pytest.raises(LibraryError, match=r"without the data of the library's collections x\. Name them"):
        add_expert(model, root / "model-y", collections=[known["y"]])
    other = replace(known["y"], name="x")
    with pytest.raises(LibraryError, match=r"pilots of 'x' are not this collection's held-out queries"):
        add_expert(model, root / "model-y", collections=[other])
    assert list(model.experts) == ["x", "spare"]
    name, report = add_expert(model, root / "model-y", collections=[known["y"]], force=True)
    assert report.unchecked == ("x",) and model.library.unmeasured() == {"y": ["x"]}
    model.remove_expert(name)
    assert add_expert(model, root / "model-y", force=True) == ("y", None)
    with pytest.raises(ExpertError, match="'base' is not one of several"):
        check_expert(model, "base", [known["x"]])


def test_sources_that_cannot_be_added_are_told(model, made, tmp_path):
    root, _ = made
    with pytest.raises(
        ExpertError, match=r"is a model\. Name one expert's folder in it: .*experts/x, .*experts/spare"
    ):
        add_expert(model, root / "model-x", force=True)
    with pytest.raises(ExpertError, match="already has an expert 'x'"):
        add_expert(model, root / "model-y", "x", force=True)
    with pytest.raises(ExpertError, match="has no adapter_config.json"):
        add_expert(model, tmp_path, force=True)
    foreign = RouterRetriever.create(str(make_checkpoint(tmp_path / "other", "roberta")), device="cpu")
    foreign.add_expert("x", random_adapter(foreign.encoder.lora_layers, 0))
    foreign.save_pretrained(tmp_path / "foreign")
    with pytest.raises(FingerprintError, match="model of another base encoder"):
        add_expert(model, tmp_path / "foreign", "f", force=True)
    assert list(model.experts) == ["x", "spare"]


def test_without_a_library_nothing_can_be_harmed(made, checkpoint):
    root, known = made
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    assert add_expert(model, root / "model-y") == ("y", None)
    assert model.library is None
    model.remove_expert("y")
    assert add_expert(model, root / "model-y", collections=[known["y"]]) == ("y", None)
    assert model.library.collections() == ("y",)


def test_a_model_object_is_a_source_as_its_folder_is(made, checkpoint):
    root, _ = made
    other = RouterRetriever.from_pretrained(root / "model-y", device="cpu")
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    assert add_expert(model, other) == ("y", None)
    assert add_expert(model, root / "model-y", "again") == ("again", None)
    assert model.state.versions["y"] == model.state.versions["again"] == other.state.versions["y"]
    assert model.experts["y"] == other.experts["y"]
    with pytest.raises(ExpertError, match="has the experts: y, again. Add one of them by itself"):
        add_expert(other, model)
    foreign = RouterRetriever.create(str(checkpoint), branch_layer=3, device="cpu")
    with pytest.raises(ExpertError, match="may not change. Create the model with a lower branch layer"):
        add_expert(foreign, other)


@pytest.mark.parametrize("job", ["train", "library", "evaluate", "check"])
def test_every_job_reads_the_vectors_of_a_collection_once(model, made, monkeypatch, job):
    _, known = made
    x = known["x"]
    jobs = {
        "train": lambda: train_expert(model, x, name="again", config=QUICK, force=True),
        "library": lambda: model.build_library([x]),
        "evaluate": lambda: evaluate(model, [x]),
        "check": lambda: check_expert(model, "spare", [x]),
    }
    model.embed_collection(x)
    read = []
    plain = EmbeddingCache._read

    def counted(self, connection, keys):
        read.extend(keys)
        return plain(self, connection, keys)

    monkeypatch.setattr(EmbeddingCache, "_read", counted)
    jobs[job]()
    assert len(read) == len(set(x.contents))
