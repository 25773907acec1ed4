"""Probabilities of hits, and the limit below which nothing is relevant."""

import numpy as np

from routerretriever.routing.fit_relevance import ENOUGH_QUERIES, FEWEST_ANSWERED, fit_relevance
from routerretriever.routing.relevance import FEATURES, HITS, LOST, RelevanceTable, hit_features


def judged(n, seed, shift=0.0):
    """Hits whose first feature decides how probable it is that they are relevant."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(n, HITS, FEATURES)) * 0.3
    chance = 1 / (1 + np.exp(-(4 * features[:, :, 0] - 1 + shift)))
    labels = random.random((n, HITS)) < chance
    values = np.concatenate([features, labels[:, :, None]], axis=2).astype(np.float32)
    return values, chance


def both(values):
    return np.stack([values, values])


def test_features_are_what_they_say():
    features = hit_features(np.array([0.9, 0.5, 0.7]), np.array([0.0, 4.0, 2.0]), np.array([0, 2, 1]))
    assert features.shape == (3, FEATURES)
    np.testing.assert_allclose(features[:, 0], [0.9, 0.7, 0.5])
    np.testing.assert_allclose(features[:, 1], [0.0, 0.2, 0.4])
    np.testing.assert_allclose(features[:, 2], np.log([1, 2, 3]))
    np.testing.assert_allclose(features[:, 3], 0.4)
    np.testing.assert_allclose(features[:, 4], [0.0, 0.5, 1.0])
    np.testing.assert_allclose(features[:, 5], np.log([1, 3, 5]))


def test_features_of_nothing():
    assert hit_features(np.empty(0), np.empty(0), np.empty(0, int)).shape == (0, FEATURES)


def test_probabilities_are_calibrated():
    values, _ = judged(800, 0)
    table = fit_relevance({"law": both(values)})
    fresh, chance = judged(800, 1)
    found = table.of("law", 0).hybrid.probabilities(fresh[:, :, :-1].reshape(-1, FEATURES))
    assert np.abs(found - chance.ravel()).mean() < 0.02


def test_the_limit_loses_no_more_than_it_says():
    values, _ = judged(800, 2, shift=-1.0)
    relevance = fit_relevance({"law": both(values)}).of("law", 1)
    fresh, _ = judged(2000, 3, shift=-1.0)
    first = relevance.hybrid.probabilities(fresh[:, 0, :-1])
    answered = fresh[:, :, -1].any(axis=1)
    lost = (first[answered] < relevance.hybrid.limit).mean()
    assert LOST / 2 < lost < LOST * 1.5


def test_few_queries_have_the_pooled_calibration():
    small, large = judged(ENOUGH_QUERIES - 1, 4)[0], judged(ENOUGH_QUERIES, 5)[0]
    table = fit_relevance({"small": both(small), "large": both(large)})
    assert table.of("small", 0) is table.pooled is table.of("unknown", 1)
    assert table.of("large", 0) is not table.pooled
    assert table.pooled.source == f"{2 * ENOUGH_QUERIES - 1} judged queries of 2 collections"


def test_queries_with_fewer_hits_are_no_obstacle():
    values, _ = judged(300, 6)
    values[::2, 4:] = np.nan
    values[0] = np.nan
    assert 0 < fit_relevance({"law": both(values)}).pooled.hybrid.limit < 1


def test_without_a_relevant_hit_there_is_nothing_to_calibrate():
    values, _ = judged(50, 7)
    values[:, :, -1] = 0
    assert fit_relevance({"law": both(values)}) is None
    assert fit_relevance({}) is None


def test_plain_data_keeps_every_number():
    table = fit_relevance({"law": both(judged(200, 8)[0])})
    again = RelevanceTable.from_dict(table.to_dict(), table.samples)
    assert again.pooled == table.pooled
    assert again.by_collection == table.by_collection


def limit_of(**collections):
    return fit_relevance({name: both(values) for name, values in collections.items()}).pooled.hybrid.limit


def test_of_two_collections_the_lower_limit_decides():
    high, low = judged(400, 8)[0], judged(400, 9)[0]
    low[:, :, 0] -= 1.0
    fitted = fit_relevance({"high": both(high), "low": both(low)}).pooled.hybrid
    answered = low[low[:, :, -1].any(axis=1)]
    lost = (fitted.probabilities(answered[:, 0, :-1]) < fitted.limit).mean()
    assert lost <= LOST


def test_collections_with_too_few_answers_leave_the_limit_to_others():
    large, small = judged(400, 10)[0], judged(FEWEST_ANSWERED - 1, 11)[0]
    assert limit_of(large=large, small=small) > 0
    assert limit_of(small=small) == 0
