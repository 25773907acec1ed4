"""The weight of the words beside each candidate, from what was measured at the pilots."""

import json
from dataclasses import replace

import numpy as np
import pytest

from routerretriever.routing.abstention import PilotSpace
from routerretriever.routing.pilot_files import PILOT_INFO, load_pilots, save_pilots
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import make_router
from routerretriever.routing.word_gains import FEWEST_QUERIES, TRIED, WordCurves, WordGains
from routerretriever.words.weights import DEFAULT_WEIGHT, WEIGHTS

FEW, MANY = WEIGHTS.index(0.975), WEIGHTS.index(0.7)


def curve(place, gain=0.2):
    values = np.zeros(len(WEIGHTS), np.float32)
    values[place] = gain
    return values


def library(queries=1000):
    """Words help the base much in `law`, its expert a little; in `sea` they hurt everywhere."""
    axes = np.eye(2, dtype=np.float32)
    hurt = np.full(len(WEIGHTS), -0.2, np.float32)
    words = WordGains(
        values=np.stack([[curve(MANY), curve(FEW)], [hurt, hurt]]).astype(np.float32),
        experts={"law": "lawyer", "sea": "sailor"},
    )
    return PilotLibrary(
        experts=("lawyer", "sailor"),
        centroids=axes,
        gains=np.array([[0.3, 0.0], [0.0, 0.3]], np.float32),
        counts=np.array([queries, queries]),
        sources=("law", "sea"),
        examples=("a law", "a sea"),
        space=replace(PilotSpace.plain(2, 2), reject_threshold=-9.0, trust_threshold=-9.0),
        words=words,
    )


def plan_of(lib, query, column=None, **settings):
    policy = RoutingPolicy(make_router("gain", lib, neighbours=1), **settings)
    decision = policy.decide(embedding(query))
    columns = None if column is None else np.array([column])
    return policy.plans(decision, columns)[0]


def embedding(query):
    return np.array([query], np.float32)


LAW, SEA = [1.0, 0.0], [0.0, 1.0]


def test_a_query_gets_the_weight_that_pays_beside_its_candidate():
    assert plan_of(library(), LAW).vector_weight == 0.975
    assert plan_of(library(), LAW, column=0).vector_weight == 0.7
    plan = plan_of(library(), SEA)
    assert plan.vector_weight == 1.0 and plan.reason == "words gain nothing on held-out queries of 'sea'"
    assert "points on held-out queries of 'law'" in plan_of(library(), LAW).reason


def test_pilots_of_feedback_leave_the_weight_to_judged_pilots():
    lib = library()
    near = replace(lib, sources=("law", "feedback:log/sea"))
    policy = RoutingPolicy(make_router("gain", near, neighbours=2))
    assert policy.plans(policy.decide(embedding(SEA)), np.array([0]))[0].vector_weight == 0.7


def test_merged_is_not_taken_for_an_expert_that_is_gone():
    lib = replace(library(), experts=("judge", "sailor"))  # the words were measured beside "lawyer"
    assert plan_of(lib, LAW, column=1).vector_weight == DEFAULT_WEIGHT


@pytest.mark.parametrize("column", [1, 3])
def test_beside_a_candidate_that_was_not_measured_the_default_holds(column):
    plan = plan_of(library(), LAW, column=column)
    assert plan.vector_weight == DEFAULT_WEIGHT and "not measured" in plan.reason


def test_out_of_domain_the_default_holds():
    lib = library()
    far = replace(lib, space=replace(lib.space, reject_threshold=9.0, trust_threshold=9.0))
    plan = plan_of(far, LAW)
    assert plan.vector_weight == DEFAULT_WEIGHT and "out of domain" in plan.reason
    assert plan_of(far, LAW, abstain=False).vector_weight == 0.975


def test_a_weight_must_be_better_than_the_default_by_a_standard_error():
    gains = np.zeros((40, 2, len(WEIGHTS)), np.float32)
    gains[:, :, MANY] = np.tile([0.5, -0.4], 20)[:, None]  # 0.05 on average, with an error of 0.07
    gains[:20, 0, MANY] += 0.2  # 0.15 beside the base
    curves = WordCurves.of(
        WordGains(values=gains, experts={"law": "lawyer"}),
        np.ones(40, np.int64),
        np.zeros(40, np.int64),
        ("law",),
        ("lawyer",),
    )
    assert [TRIED[column] for column in curves.chosen[0]] == [0.7, DEFAULT_WEIGHT]


def test_few_queries_leave_the_default():
    lib = replace(library(), counts=np.array([FEWEST_QUERIES, FEWEST_QUERIES - 1]))
    assert plan_of(lib, LAW).vector_weight == 0.975
    assert plan_of(lib, SEA).vector_weight == DEFAULT_WEIGHT


def test_experts_come_and_go_with_what_was_measured_beside_them():
    lib = library()
    renamed = lib.renamed("lawyer", "judge")
    assert plan_of(renamed, LAW).vector_weight == 0.975
    removed = lib.with_experts(("sailor",))
    assert removed.words.experts == {"sea": "sailor"}
    assert plan_of(removed, LAW, column=0).vector_weight == 0.7
    only_sea = lib.without_collection("law")
    assert only_sea.words.values.shape[0] == len(only_sea) == 1


def test_a_library_keeps_it_on_disk(tmp_path):
    lib = library()
    save_pilots(lib, tmp_path)
    loaded, _ = load_pilots(tmp_path)
    np.testing.assert_allclose(loaded.words.values, lib.words.values, atol=1e-3)
    assert loaded.words.experts == lib.words.experts


def test_a_library_without_such_measurements_gets_the_default(tmp_path):
    lib = replace(library(), words=None)
    save_pilots(lib, tmp_path)
    assert "words" not in json.loads((tmp_path / PILOT_INFO).read_text())
    loaded, _ = load_pilots(tmp_path)
    assert loaded.words is None
    assert plan_of(loaded, LAW).vector_weight == DEFAULT_WEIGHT


def test_measurements_with_other_weights_are_not_misread(tmp_path):
    save_pilots(library(), tmp_path)
    path = tmp_path / PILOT_INFO
    info = json.loads(path.read_text())
    info["words"]["weights"] = [0.5]
    path.write_text(json.dumps(info))
    assert load_pilots(tmp_path)[0].words is None
