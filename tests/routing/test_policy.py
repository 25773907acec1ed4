from dataclasses import replace

import numpy as np
import pytest

from routerretriever.errors import LibraryError
from routerretriever.routing.abstention import PilotSpace
from routerretriever.routing.explain import explain_routes
from routerretriever.routing.folds import contiguous_folds, leave_one_group_out
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import make_router


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def library(centroids, gains, counts=None, sources=None, experts=("a", "b"), thresholds=(-9.0, -9.0)):
    """A library measured between the raw embeddings, where the in-domain score is the mean similarity."""
    n = len(centroids)
    plain = PilotSpace.plain(n, len(centroids[0]))
    return PilotLibrary(
        experts=experts,
        centroids=unit(centroids),
        gains=np.asarray(gains, np.float32),
        counts=np.asarray(counts if counts is not None else [1] * n, np.int64),
        sources=tuple(sources or ["c"] * n),
        examples=tuple(f"example {k}" for k in range(n)),
        space=replace(plain, reject_threshold=thresholds[0], trust_threshold=thresholds[1]),
    )


QUERY = unit([[1.0, 0.2]])


def test_gain_router_is_the_weighted_mean_of_the_nearest_gains():
    lib = library([[1, 0], [0, 1], [-1, 0]], [[0.4, -0.2], [0.0, 0.8], [9, 9]], counts=[2, 1, 5])
    scores = make_router("gain", lib, neighbours=2, temperature=0.5, locality=1.0).scores(QUERY)
    similarity = QUERY @ lib.centroids[:2].T
    weights = np.array([2, 1]) * np.exp(similarity / 0.5)
    wanted = weights @ lib.gains[:2] / weights.sum()
    assert scores.shape == (1, 4)
    assert scores[0, 0] == 0
    np.testing.assert_allclose(scores[0, 2:], wanted[0], rtol=1e-5)


def test_pilots_are_shrunk_towards_the_mean_of_their_collection():
    lib = library([[1, 0], [0, 1]], [[0.8, 0.0], [0.0, 0.0]], counts=[1, 3])
    router = make_router("gain", lib, neighbours=1, locality=0.25)
    assert router.scores(QUERY)[0, 2] == pytest.approx(0.25 * 0.8 + 0.75 * 0.2)
    two = library([[1, 0], [0, 1]], [[0.8, 0.0], [0.0, 0.0]], sources=["x", "y"])
    assert make_router("gain", two, neighbours=1).scores(QUERY)[0, 2] == pytest.approx(0.8)


def test_unmeasured_gains_count_as_none():
    lib = library([[1, 0]], [[np.nan, 0.1]])
    assert make_router("gain", lib).scores(QUERY)[0, 2:].tolist() == pytest.approx([0.0, 0.1])


def test_a_training_query_counts_for_the_mean_of_its_collection():
    lib = library([[1, 0], [0, 1]], [[np.nan, np.nan], [0.4, -0.2]])
    router = make_router("gain", lib, neighbours=1)
    assert router.scores(QUERY)[0, 2:].tolist() == pytest.approx([0.4, -0.2])
    assert make_router("pilot-max", lib).gains.any(axis=1).tolist() == [False, True]


def test_paper_rule_is_the_mean_similarity_of_an_experts_pilots():
    """Expert a owns two pilots whose mean is below b's one, although one of a's is the nearest."""
    lib = library([[1, 0.2], [-1, 0], [1, 1]], [[1, 0], [1, 0], [0, 1]])
    similarity = (QUERY @ lib.centroids.T)[0]
    mean = make_router("pilot-mean", lib).scores(QUERY)[0]
    assert mean[2] == pytest.approx((similarity[0] + similarity[1]) / 2)
    assert mean[3] == pytest.approx(similarity[2])
    assert mean[:2].tolist() == [-np.inf, -np.inf]
    assert explain_routes(RoutingPolicy(make_router("pilot-mean", lib)), ["q"], QUERY)[0].expert == "b"
    largest = make_router("pilot-max", lib).scores(QUERY)[0]
    assert largest[2] == pytest.approx(similarity[0])
    assert explain_routes(RoutingPolicy(make_router("pilot-max", lib)), ["q"], QUERY)[0].expert == "a"


def test_an_expert_without_pilots_is_never_chosen_by_the_papers_rules():
    lib = library([[1, 0]], [[1, 0]])
    for name in ("pilot-mean", "pilot-max"):
        assert make_router(name, lib).scores(QUERY)[0, 3] == -np.inf


def test_base_unless_a_gain_above_the_margin_is_predicted():
    lib = library([[1, 0]], [[0.03, -0.5]])
    route = explain_routes(RoutingPolicy(make_router("gain", lib)), ["q"], QUERY)[0]
    assert (route.expert, route.gains["a"]) == ("a", 0.03)
    assert (
        explain_routes(RoutingPolicy(make_router("gain", lib), margin=0.05), ["q"], QUERY)[0].expert == "base"
    )
    worse = library([[1, 0]], [[-0.03, -0.5]])
    assert explain_routes(RoutingPolicy(make_router("gain", worse)), ["q"], QUERY)[0].expert == "base"


@pytest.mark.parametrize(("experts", "fallback"), [(("a", "b"), "base"), (("a", "b", "c"), "merged")])
def test_the_lower_the_in_domain_score_the_lower_the_adapter_weight(experts, fallback):
    lib = library([[1, 0]], [[0.5, 0.2, 0.1][: len(experts)]], experts=experts, thresholds=(0.3, 0.9))
    policy = RoutingPolicy(make_router("gain", lib), partial_weight=0.5, fallback_weight=0.25)
    embeddings = unit([[1, 0], [1, 1], [0, 1]])
    near, doubtful, far = explain_routes(policy, ["near", "doubtful", "far"], embeddings)
    weights = policy(embeddings)
    assert (near.expert, near.adapter_weight, near.abstained) == ("a", 1.0, False)
    assert (doubtful.expert, doubtful.adapter_weight, doubtful.abstained) == ("a", 0.5, False)
    share = 0.25 if fallback == "merged" else 1.0
    assert (far.expert, far.adapter_weight, far.abstained) == (fallback, share, True)
    assert weights[0, 2] == 1.0
    assert weights[1].tolist()[:4] == [0.5, 0.0, 0.5, 0.0]
    assert weights[2, policy.candidates.index(fallback)] == share
    assert weights.sum(axis=1).tolist() == [1.0, 1.0, 1.0]
    assert "applied with weight 50%" in doubtful.reason
    assert far.reason.startswith("out of domain")
    trusting = RoutingPolicy(make_router("gain", lib), abstain=False)
    assert [(r.expert, r.adapter_weight) for r in explain_routes(trusting, ["q"] * 3, embeddings)] == [
        ("a", 1.0)
    ] * 3


@pytest.mark.parametrize(
    ("setting", "value", "saved_as"),
    [
        ("margin", 0.05, "margin"),
        ("mix", 3, "mix"),
        ("mix_temperature", 0.01, "mix_temperature"),
        ("partial_weight", 0.25, "caution"),
        ("fallback_weight", 0.25, "fallback_share"),
        ("abstain", False, "abstain"),
    ],
)
def test_each_setting_changes_the_weights_and_is_saved(setting, value, saved_as):
    lib = library([[1, 0]], [[0.04, 0.03, 0.02]], experts=("a", "b", "c"), thresholds=(0.3, 0.9))
    embeddings = unit([[1, 0], [1, 1], [0, 1]])
    before = RoutingPolicy(make_router("gain", lib), mix=2 if setting == "mix_temperature" else 1)
    after = before.with_settings({setting: value})
    assert not np.array_equal(before(embeddings), after(embeddings))
    assert after.settings()[saved_as] == value
    again = RoutingPolicy.from_settings(after.settings(), lib)
    assert getattr(again, setting) == value
    assert np.array_equal(again(embeddings), after(embeddings))


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin": -0.1},
        {"margin": float("nan")},
        {"mix": 0},
        {"mix": 1.5},
        {"mix_temperature": 0.0},
        {"partial_weight": 0.0},
        {"partial_weight": 1.1},
        {"fallback_weight": 2.0},
        {"abstain": "no"},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    policy = RoutingPolicy(make_router("gain", library([[1, 0]], [[0.1, 0.2]])))
    with pytest.raises(LibraryError, match=f"{next(iter(wrong))} must be"):
        policy.with_settings(wrong)


def test_settings_that_a_router_ignores_are_refused():
    policy = RoutingPolicy(make_router("pilot-mean", library([[1, 0]], [[0.1, 0.2]])))
    with pytest.raises(LibraryError, match="ignores margin"):
        policy.with_settings({"margin": 0.1})


def test_unknown_saved_settings_are_named():
    policy = RoutingPolicy(make_router("gain", library([[1, 0]], [[0.1, 0.2]])))
    with pytest.raises(LibraryError, match="caprice"):
        RoutingPolicy.from_settings({**policy.settings(), "caprice": 1}, policy.library)


def test_folds_are_blocks_of_every_group():
    groups = ["x"] * 5 + ["y"] * 8
    folds = list(contiguous_folds(groups, 4))
    assert np.sum(folds, axis=0).tolist() == [1] * 13
    assert [fold[5:].sum() for fold in folds] == [2, 2, 2, 2]
    assert all(np.diff(np.flatnonzero(fold[:5])).tolist() in ([], [1]) for fold in folds)
    assert [mask.sum() for mask in leave_one_group_out(groups)] == [5, 8]


def test_mixing_weighs_the_best_by_predicted_gain():
    lib = library([[1, 0]], [[0.2, 0.1]])
    weights = RoutingPolicy(make_router("gain", lib), mix=2, mix_temperature=0.1)(QUERY)
    assert weights[0, 0] == 0
    assert weights[0, 1] == 0
    assert weights[0, 2] / weights[0, 3] == pytest.approx(np.e, rel=1e-4)
    assert weights.sum() == pytest.approx(1.0)


def test_route_explains_itself():
    lib = library([[1, 0], [0, 1]], [[0.2, np.nan], [0.0, 0.3]], sources=["shell", "law"])
    route = explain_routes(
        RoutingPolicy(make_router("gain", lib, temperature=0.01)), ["q"], QUERY, n_pilots=2
    )[0]
    assert route.pilots[0].collection == "shell"
    assert route.pilots[0].gains == {"a": 0.2}
    assert route.pilots[0].similarity > route.pilots[1].similarity
    assert "a is predicted to gain" in route.reason
    assert set(route.to_dict()) >= {"expert", "gains", "in_domain_score", "pilots", "reason"}


def clusters(seed, centres, per_centre=40, shared=5.0):
    """Points around centres, along a direction that all share and that says nothing."""
    rng = np.random.default_rng(seed)
    noise = 0.15 * rng.normal(size=(len(centres), per_centre, 8))
    noise[..., 0] += shared + 2 * rng.normal(size=noise.shape[:2])
    return unit((np.asarray(centres)[:, None] + noise).reshape(-1, 8))


def test_the_space_tells_in_domain_from_out_of_domain_queries():
    pilots, in_domain = (clusters(seed, np.eye(8)[1:4]) for seed in (0, 1))
    sources = [name for name in "xyz" for _ in range(40)]
    lib = library(pilots, np.zeros((120, 2)), sources=sources).fitted()
    policy = RoutingPolicy(make_router("gain", lib))
    out_of_domain = clusters(2, np.eye(8)[5:6], per_centre=60)
    weights = {
        name: policy.decide(points).adapter_weights
        for name, points in (("in", in_domain), ("out", out_of_domain))
    }
    assert (weights["in"] == 1).mean() > 0.75
    assert (weights["out"] == 0).mean() > 0.85
    assert lib.space.reject_threshold < lib.space.trust_threshold


def test_the_space_of_a_single_collection_or_pilot():
    rng = np.random.default_rng(0)
    lib = library(rng.normal(size=(50, 4)), np.zeros((50, 2))).fitted()
    weights = RoutingPolicy(make_router("gain", lib)).decide(lib.centroids).adapter_weights
    assert (weights > 0).mean() > 0.9
    single = library([[1, 0]], [[0.1, 0]]).fitted()
    assert explain_routes(RoutingPolicy(make_router("gain", single)), ["q"], QUERY)[0].expert in ("a", "base")
    two = library([[1, 0], [0, 1]], [[0.1, 0], [0, 0.1]], sources=["x", "y"]).fitted()
    assert np.isfinite(RoutingPolicy(make_router("gain", two)).decide(QUERY).in_domain_scores).all()


def test_other_pilots_undo_the_fitted_space():
    first = library([[1, 0], [0, 1]], np.zeros((2, 2)), sources=["x", "y"]).fitted()
    assert first.with_experts(("a",)).space is first.space
    assert first.without_collection("x").space is None
    assert first.extended(library([[1, 1]], [[0, 0]], sources=["z"])).space is None
    assert PilotLibrary.empty(2, ("a",)).fitted().space is None


def test_adding_and_removing_touch_only_their_own_rows_and_columns():
    first = library([[1, 0], [0, 1]], [[0.1, 0.2], [0.3, 0.4]], sources=["x", "x"])
    wider = first.with_experts(("a", "b", "c"))
    np.testing.assert_array_equal(wider.gains[:, :2], first.gains)
    assert np.isnan(wider.gains[:, 2]).all()
    assert wider.unmeasured() == {"c": ["x"]}
    narrower = first.with_experts(("b",))
    np.testing.assert_array_equal(narrower.gains[:, 0], first.gains[:, 1])
    longer = first.extended(library([[1, 1]], [[0.5, 0.6]], sources=["y"]))
    np.testing.assert_array_equal(longer.gains[:2], first.gains)
    assert longer.collections() == ("x", "y")
    back = longer.without_collection("y")
    np.testing.assert_array_equal(back.gains, first.gains)
    np.testing.assert_array_equal(back.centroids, first.centroids)
    with pytest.raises(LibraryError, match="same experts"):
        first.extended(wider)


def test_experts_are_added_without_copying_what_is_known_of_the_others():
    first = library([[1, 0], [0, 1]], [[0.1, 0.2], [0.3, 0.4]]).with_experts(("a", "b", "c"))
    one, two = first.with_experts(("a", "b", "c", "d")), first.with_experts(("a", "b", "c", "e", "f"))
    assert np.shares_memory(one.gains, first.gains)
    assert np.shares_memory(two.gains, first.gains)
    filled = one.with_gains("d", {"c": 0.5})
    assert filled.gains[:, 3].tolist() == [0.5, 0.5]
    assert np.isnan(one.gains[:, 2:]).all()
    assert np.isnan(two.gains[:, 2:]).all()
    many = first.with_experts(("a", "b", *(f"x{k}" for k in range(100))))
    assert many.gains.shape == (2, 102)
    np.testing.assert_array_equal(many.gains[:, :2], first.gains[:, :2])


def test_measured_columns_behind_a_library_are_not_taken_for_its_own():
    whole = np.array([[0.1, 0.2, 0.9], [0.3, 0.4, 0.9]], np.float32)
    wider = replace(library([[1, 0], [0, 1]], np.zeros((2, 2))), gains=whole[:, :2]).with_experts(
        ("a", "b", "c")
    )
    np.testing.assert_array_equal(wider.gains, [[*row[:2], np.nan] for row in whole])


@pytest.mark.parametrize("rule", ["gain", "pilot-mean", "pilot-max"])
def test_a_router_taken_over_to_more_experts_scores_as_a_new_one(rule):
    lib = library([[1, 0], [0, 1], [1, 1]], [[0.4, -0.2], [0.0, 0.8], [0.1, 0.2]], sources=["x", "y", "x"])
    lib = lib.with_experts(("a", "b", "c"))
    router = make_router(rule, lib)
    assert lib.with_experts(("a", "b", "c", "d")).only_adds_to(lib)
    for other in (
        lib.with_experts(("a", "b", "c", "d")),
        lib.with_experts(("a", "b", "c", "d")).with_gains("d", {"x": 0.7}),
        lib.with_experts(("b", "c")),
        lib.with_experts(("c", "a", "b")),
        lib.renamed("a", "z").with_experts(("z", "b", "c", "d")),
    ):
        expected = make_router(rule, other).scores(QUERY)
        np.testing.assert_array_equal(router.over(other).scores(QUERY), expected)


def test_unknown_router_and_empty_library():
    with pytest.raises(LibraryError, match="gain, pilot-mean, pilot-max"):
        make_router("oracle", library([[1, 0]], [[0, 0]]))
    with pytest.raises(LibraryError, match="is empty"):
        make_router("gain", PilotLibrary.empty(2, ("a",)))
