import json

import numpy as np
import pytest

from routerretriever import Collection, RouterRetriever, evaluate
from routerretriever.data.document import Document
from routerretriever.data.splits import Split
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.errors import CollectionError
from routerretriever.evaluation.evaluate import SystemScores, oracles
from routerretriever.evaluation.report import evaluation_table, report_content, write_report
from routerretriever.evaluation.runs import MEASURES, measure_run, search_run
from routerretriever.evaluation.statistics import bootstrap_interval, paired_p_value
from routerretriever.kernels.exact_search import top_k


def test_measures_by_hand():
    split = Split(
        "test", {"q1": "", "q2": "", "q3": ""}, {"q1": {"a": 2, "b": 1}, "q2": {"c": 1}, "q3": {"a": 1}}
    )
    run = {"q1": {"b": 3.0, "x": 2.0, "a": 1.0}, "q2": {"x": 1.0}, "q3": {"a": 1.0}}
    values = measure_run(run, split)
    ideal = 2 + 1 / np.log2(3)
    assert values["nDCG@10"] == pytest.approx([(1 + 2 / np.log2(4)) / ideal, 0, 1])
    assert values["R@100"].tolist() == [1, 0, 1]
    assert values["RR@10"].tolist() == [1, 0, 1]


def test_queries_without_results_count_as_zero():
    split = Split("test", {"q1": "", "q2": ""}, {"q1": {"a": 1}, "q2": {"a": 1}})
    assert measure_run({"q1": {"a": 1.0}, "q2": {}}, split)["nDCG@10"].tolist() == [1, 0]


def test_top_k_is_the_sorted_product():
    rng = np.random.default_rng(0)
    queries, documents = (rng.normal(size=(n, 8)).astype(np.float32) for n in (600, 50))
    found = top_k(queries, documents, 7, "dot")
    product = queries @ documents.T
    np.testing.assert_array_equal(found.columns, np.argsort(-product, axis=1)[:, :7])
    cosine = top_k(queries, documents, 99)
    assert cosine.columns.shape == (600, 50)
    assert cosine.scores.max() <= 1.00001


def test_identical_ids_are_ignored_only_where_asked():
    documents = (Document("q1", "same text"), Document("d2", "other"))
    split = Split("test", {"q1": "same text"}, {"q1": {"d2": 1}})
    vectors = np.array([[1, 0], [0.8, 0.6]], np.float32)
    found = DocumentVectors.whole(documents, vectors)
    for ignore, wanted in ((False, ["q1"]), (True, ["d2"])):
        collection = Collection(
            name="c", documents=documents, splits={"test": split}, ignore_identical_ids=ignore
        )
        assert list(search_run(vectors[:1], split, found, collection, depth=1)["q1"]) == wanted


def scores(values):
    return SystemScores({measure: np.array(values, float) for measure in MEASURES})


def test_oracles_choose_by_ndcg_and_leave_merged_out():
    systems = {
        "base": scores([0.5, 0.0, 0.5]),
        "merged": scores([1, 1, 1]),
        "expert:a": scores([0.9, 0.1, 0.2]),
        "expert:b": scores([0.0, 0.9, 0.0]),
    }
    found = oracles(systems)
    assert found["dataset_oracle"].mean() == pytest.approx(0.4)
    assert found["instance_oracle"].values["nDCG@10"].tolist() == [0.9, 0.9, 0.5]


def test_significance_and_intervals():
    rng = np.random.default_rng(0)
    base = rng.random(200)
    assert paired_p_value(base, base) == 1.0
    assert paired_p_value(base + 0.1 * rng.random(200), base) < 0.001
    assert paired_p_value(base + rng.normal(0, 0.2, 200), base) > 0.01
    low, high = bootstrap_interval(base)
    assert low < base.mean() < high
    assert high - low == pytest.approx(4 * base.std() / np.sqrt(200), rel=0.2)
    assert bootstrap_interval(np.ones(5)) == [1.0, 1.0]


@pytest.fixture
def evaluated(checkpoint, make_collection):
    from tiny import random_adapter

    model = RouterRetriever.create(str(checkpoint), device="cpu")
    for number in range(2):
        model.add_expert(f"e{number}", random_adapter(model.encoder.lora_layers, number))
    collections = [Collection.load(make_collection(name, shift)) for shift, name in enumerate(("x", "y"))]
    model.build_library(collections[:1])
    return evaluate(model, collections), model


def test_evaluation_has_every_system_and_documented_shape(evaluated):
    result, model = evaluated
    content = json.loads(json.dumps(result.to_dict()))
    wanted = {
        "base",
        "hybrid",
        "routed",
        "routed-hybrid",
        "merged",
        "expert:e0",
        "expert:e1",
        "dataset_oracle",
        "instance_oracle",
    }
    assert set(content["mean"]) == wanted
    one = content["collections"]["x"]
    assert one["queries"] == 24
    assert set(one["systems"]) == wanted
    assert set(one["systems"]["routed"]) >= {
        "nDCG@10",
        "R@100",
        "RR@10",
        "ci95",
        "p_vs_base",
        "hurt",
        "helped",
    }
    assert sum(one["chosen"].values()) == 24
    assert set(one["chosen"]) <= set(model.state.candidates)
    mean = np.mean([content["collections"][name]["systems"]["routed"]["nDCG@10"] for name in "xy"])
    assert content["mean"]["routed"]["nDCG@10"] == pytest.approx(mean)


def test_report_files(evaluated, tmp_path):
    result, _ = evaluated
    page = write_report(result, tmp_path / "out", title="A <title>")
    html = page.read_text()
    assert "A &lt;title&gt;" in html
    assert "instance_oracle" in html
    assert 'src="http' not in html
    assert "Plotly" in html
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(
        json.dumps(report_content(result))
    )
    run = (tmp_path / "out" / "runs" / "x.routed.trec").read_text().splitlines()
    assert len(run[0].split()) == 6
    import ir_measures

    read = list(ir_measures.read_trec_run(str(tmp_path / "out" / "runs" / "x.routed.trec")))
    qrels = [
        ir_measures.Qrel(query, document, grade)
        for query, grades in result.collections[0].split.qrels.items()
        for document, grade in grades.items()
    ]
    again = ir_measures.calc_aggregate([MEASURES["nDCG@10"]], qrels, read)
    assert again[MEASURES["nDCG@10"]] == pytest.approx(
        result.collections[0].systems["routed"].mean(), abs=1e-6
    )
    assert evaluation_table(result).row_count == 9


def test_limits_and_names(evaluated, make_collection):
    _, model = evaluated
    collection = Collection.load(make_collection("z"))
    limited = evaluate(model, [collection], limit=5)
    assert len(limited.collections[0].split) == 5
    with pytest.raises(CollectionError, match="name of its own"):
        evaluate(model, [collection, collection])
    with pytest.raises(CollectionError, match="no split 'x'"):
        evaluate(model, [collection], split="x")


def test_without_library_routed_is_the_base(checkpoint, make_collection):
    result = evaluate(
        RouterRetriever.create(str(checkpoint), device="cpu"), [Collection.load(make_collection("x"))]
    )
    assert result.mean("routed") == result.mean("base") == result.mean("dataset_oracle")
