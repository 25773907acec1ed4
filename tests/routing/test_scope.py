"""Routing among some of the experts, by the pilots of some collections."""

from dataclasses import replace

import numpy as np
import pytest

from routerretriever.routing.abstention import PilotSpace
from routerretriever.routing.explain import explain_routes
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import ROUTERS, make_router
from routerretriever.routing.scope import RoutingScope, scoped_policy

EXPERTS = ("a", "b", "c")
SOURCES = ("x", "x", "y", "y", "feedback:one/x")


def library(rejects=-9.0):
    """Expert a is best at x, b and c at y; feedback near x likes c."""
    centroids = np.array([[1, 0.1], [1, 0.2], [0.1, 1], [0.2, 1], [1, 0.15]], np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    gains = [[0.4, 0.1, 0.0], [0.4, 0.1, 0.0], [-0.2, 0.3, 0.5], [-0.2, 0.3, 0.5], [0.0, 0.0, 0.9]]
    plain = PilotSpace.plain(len(centroids), 2)
    return PilotLibrary(
        experts=EXPERTS,
        centroids=centroids,
        gains=np.array(gains, np.float32),
        counts=np.ones(len(centroids), np.int64),
        sources=SOURCES,
        examples=tuple(f"private text {row} of {source}" for row, source in enumerate(SOURCES)),
        space=replace(plain, reject_threshold=rejects, trust_threshold=rejects),
    )


def policy(rule="gain", rejects=-9.0, **settings):
    options = {"neighbours": 2} if rule == "gain" else {}
    return RoutingPolicy(make_router(rule, library(rejects), **options), **settings)


AT_X, AT_Y = np.array([[1.0, 0.1]], np.float32), np.array([[0.1, 1.0]], np.float32)


def scope(experts=None, collections=None):
    return RoutingScope(
        experts=None if experts is None else frozenset(experts),
        collections=None if collections is None else frozenset(collections),
    )


def chosen(found, queries):
    return [found.candidates[column] for column in found.decide(queries).chosen.tolist()]


def test_a_query_goes_to_the_best_expert_of_its_scope():
    assert chosen(policy(), AT_Y) == ["c"]
    assert chosen(scoped_policy(policy(), scope(["a", "b"])), AT_Y) == ["b"]
    assert chosen(scoped_policy(policy(), scope(["a"])), AT_Y) == ["base"]


def test_no_pilot_of_another_collection_is_read():
    found = scoped_policy(policy(), scope(EXPERTS, ["x"]))
    assert set(found.library.sources) == {"x"}
    (route,) = explain_routes(found, ["?"], AT_Y, 10)
    assert {pilot.collection for pilot in route.pilots} == {"x"} and len(route.pilots) == 2
    assert chosen(found, AT_Y) == ["a"]  # the pilots of y, where a is bad, are none of this scope


def test_an_explanation_names_nothing_beyond_the_scope():
    found = scoped_policy(policy(), scope(["a", "b"], ["y"]))
    (route,) = explain_routes(found, ["?"], AT_Y, 10)
    assert set(route.gains) == {"base", "a", "b"}
    assert {name for pilot in route.pilots for name in pilot.gains} == {"a", "b"}
    told = str(route.to_dict())
    assert "'c'" not in told and "of x" not in told and "feedback" not in told


@pytest.mark.parametrize("experts", [["a"], ["a", "b"], EXPERTS])
def test_the_merged_expert_needs_all_experts(experts):
    """It is the mean of all, also of those that come tomorrow."""
    whole = policy(rejects=9.0)  # every query is out of domain
    assert chosen(whole, AT_X) == ["merged"]
    found = scoped_policy(whole, scope(experts))
    decided = found.decide(AT_X)
    assert chosen(found, AT_X) == ["base"]
    assert decided.weights[0].tolist() == [1.0] + [0.0] * (1 + len(experts))
    assert chosen(scoped_policy(whole, scope(None, ["x"])), AT_X) == ["merged"]


@pytest.mark.parametrize("rule", ROUTERS)
@pytest.mark.parametrize("mix", [1, 2, 9])
def test_weights_of_every_rule_sum_to_one(rule, mix):
    for experts in (["a"], ["c"], ["b", "c"]):
        for collections in (None, ["x"], ["y"]):
            found = scoped_policy(policy(rule, mix=mix), scope(experts, collections))
            weights = found.decide(np.concatenate([AT_X, AT_Y])).weights
            np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)
            assert weights.shape == (2, 2 + len(experts))
            assert explain_routes(found, ["?", "?"], np.concatenate([AT_X, AT_Y]))


@pytest.mark.parametrize("rule", ["pilot-mean", "pilot-max"])
def test_a_rule_without_the_base_takes_it_where_no_expert_has_a_pilot(rule):
    whole = policy(rule)
    gains = whole.library.gains.copy()
    gains[:, 2] = np.nan
    measured = replace(whole, router=whole.router.over(replace(whole.library, gains=gains)))
    found = scoped_policy(measured, scope(["c"], ["x"]))
    assert chosen(found, AT_X) == ["base"]
    (route,) = explain_routes(found, ["?"], AT_X)
    assert (route.expert, route.reason) == ("base", "no expert has a pilot")


def test_a_scope_without_pilots_or_experts_has_no_policy():
    assert scoped_policy(policy(), scope(None, ["z"])) is None
    assert scoped_policy(policy(), scope([])) is None
    assert scoped_policy(policy(), scope(["gone"])) is None


def test_pilots_of_feedback_are_read_with_all_collections_alone():
    assert len(scoped_policy(policy(), scope(["a"])).library) == len(SOURCES)
    assert "feedback:one/x" not in scoped_policy(policy(), scope(["a"], ["x", "y"])).library.sources
