"""Run files are read back by the readers of others, whatever the ids."""

from urllib.parse import unquote

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from properties import IDS, tried

from routerretriever.data.splits import Split
from routerretriever.evaluation.evaluate import CollectionResult, Evaluation, SystemScores
from routerretriever.evaluation.report import write_runs
from routerretriever.evaluation.trec_runs import trec_id, write_trec_run

SCORES = st.floats(-100, 100, width=32)
RUNS = st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=3), min_size=1, max_size=3)


def read_by_others(path):
    """The run as each of the two readers gives it, with ids as they were."""
    with path.open(encoding="utf-8") as file:
        rows = pytrec_eval.parse_run(file)
    first = {unquote(q): {unquote(d): score for d, score in ranked.items()} for q, ranked in rows.items()}
    second = {}
    for row in ir_measures.read_trec_run(path.read_text(encoding="utf-8")):
        second.setdefault(unquote(row.query_id), {})[unquote(row.doc_id)] = row.score
    return first, second


@tried(50)
@given(run=RUNS)
def test_any_ids_come_back(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("run") / "a.trec"
    write_trec_run(run, path, "my system")
    for found in read_by_others(path):
        assert found == {q: {d: float(f"{s:.9g}") for d, s in ranked.items()} for q, ranked in run.items()}


@pytest.mark.parametrize("name", ["a/b", "..", "../../x", ".a", "a\\b", "x" * 300, "CON"])
def test_a_run_of_any_collection_has_a_file(tmp_path, name):
    values = {"q": np.array([1.0])}
    scores = SystemScores(values, {"q": {"d": 1.0}})
    split = Split("test", {"q": "one"}, {"q": {"d": 1}})
    systems = {"base": scores, "expert:x": scores}
    results = [
        CollectionResult(name=part, split=split, systems=systems, chosen={}) for part in (name, "other")
    ]
    write_runs(Evaluation(tuple(results)), tmp_path / "out" / "runs")
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 4
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_ids_that_need_nothing_stay_as_they_are():
    for given_id in ("d1", "MED-10", "http://a/b?c=%d", "100%", "é東京"):
        assert trec_id(given_id) == given_id
    assert trec_id("a b\t%20") == "a%20b%09%2520"


def test_close_scores_make_no_tie(tmp_path):
    write_trec_run({"q": {"z": 0.90000010, "a": 0.90000004}}, tmp_path / "a.trec", "x")
    for found in read_by_others(tmp_path / "a.trec"):
        assert found["q"]["z"] > found["q"]["a"]
