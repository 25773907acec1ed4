"""Rows of several scopes in one batch: each is routed as if the model had nothing beyond its scope."""

from dataclasses import replace

import numpy as np
import pytest
from models import TEXTS, with_experts, with_library

from routerretriever import RouterRetriever, compile_model, open_model
from routerretriever.errors import ExpertError
from routerretriever.routing.scope import RoutingScope

QUERIES = [*TEXTS, "zap cord", "lamp", "tide tide"]
SCOPES = [
    None,
    RoutingScope(frozenset({"e0", "e3"})),
    RoutingScope(frozenset({"e1", "e2"}), frozenset({"c"})),
    RoutingScope(None, frozenset({"d"})),
    RoutingScope(frozenset({"e4"}), frozenset({"nowhere"})),
    RoutingScope(frozenset()),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, checkpoint):
    model = with_library(with_experts(checkpoint, kinds=("lora", "map", "both")))
    space = replace(model.library.space, reject_threshold=0.1, trust_threshold=0.6)
    model.set_library(replace(model.library, space=space))
    found = tmp_path_factory.mktemp("scoped") / "model"
    model.save_pretrained(found)
    compile_model(found)
    return found


@pytest.fixture(scope="module", params=["torch", "onnx"])
def model(request, folder):
    return open_model(folder, engine=request.param, device="cpu")


def within(state, scope):
    """The state that has nothing but a scope: what the rows of that scope are compared with."""
    if scope is None:
        return state
    for name in state.experts:
        if not scope.allows(name):
            state = state.without_expert(name)
    if state.policy is None or scope.collections is None:
        return state
    kept = np.array([source in scope.collections for source in state.library.sources])
    return state.with_library(state.library.only(kept)) if kept.any() else state.with_policy(None)


def test_every_row_is_routed_as_by_a_model_of_its_scope_alone(model):
    scopes = [SCOPES[row % len(SCOPES)] for row in range(len(QUERIES) * len(SCOPES))]
    queries = [query for query in QUERIES for _ in SCOPES]
    found = model.encode_routed(queries, None, scopes)
    used = set()
    for scope in SCOPES:
        rows = [row for row, own in enumerate(scopes) if own == scope]
        wanted = model.encode_routed([queries[row] for row in rows], state=within(model.state, scope))
        assert tuple(found.experts[row] for row in rows) == wanted.experts
        assert tuple(found.plans[row] for row in rows) == wanted.plans
        np.testing.assert_allclose(found.vectors[rows], wanted.vectors, atol=1e-5)
        np.testing.assert_array_equal(found.abstained[rows], wanted.abstained)
        np.testing.assert_allclose(found.predicted_gains[rows], wanted.predicted_gains, atol=1e-5)
        used |= {(scope, name) for name in wanted.experts}
    assert (None, "merged") in used and (SCOPES[3], "merged") in used  # they abstain
    assert len(used) >= 10


def test_a_pinned_expert_must_be_in_the_scope_of_its_row(model):
    own = RoutingScope(frozenset({"e0"}))
    found = model.encode_routed(["lamp"] * 3, ["e0", "base", "e1"], [own, own, None])
    assert found.experts == ("e0", "base", "e1") and not found.abstained.any()
    for name in ("e1", "merged", "nobody"):
        with pytest.raises(ExpertError, match=rf"no expert '{name}' .* Choose one of: base, e0\.$"):
            model.encode_routed(["lamp"], [name], [own])


def test_both_engines_route_scopes_alike(folder):
    by_torch = RouterRetriever.from_pretrained(folder, device="cpu").eval()
    by_engine = open_model(folder, engine="onnx")
    scopes = [SCOPES[row % len(SCOPES)] for row in range(len(QUERIES))]
    wanted, found = (each.encode_routed(QUERIES, None, scopes) for each in (by_torch, by_engine))
    assert found.experts == wanted.experts and found.plans == wanted.plans
    assert abs(found.vectors - wanted.vectors).max() < 1e-4
