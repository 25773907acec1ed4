"""Intervals, and the tests of significance: all of them are here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]

SIGNIFICANCE_LEVEL = 0.05
"""A difference with a smaller p-value is called significant."""


def bootstrap_interval(values: Values, resamples: int = 2000) -> list[float]:
    """Return the 95% percentile bootstrap interval of the mean over queries."""
    if len(values) < 2 or np.ptp(values) == 0:
        return [float(values.mean())] * 2
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return [float(interval.low), float(interval.high)]


def paired_p_value(values: Values, base: Values, resamples: int = 9999) -> float:
    """Return the p-value of a two-sided paired randomisation test on the mean (Smucker et al. 2007).

    This is the test wherever two systems are compared on the same judged queries: in training, in the
    check of a new expert for harm, in evaluation and in the benchmark.
    """
    difference = values - base
    if not difference.any():
        return 1.0
    test = stats.permutation_test(
        (difference,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=1000,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def ratio_of_sums(values: Values, weights: Values) -> tuple[Values, Values]:
    """Return the sum of values (n, E) over the sum of weights (n,), and its standard error, both (E,).

    The error is computed by linearisation over the rows whose weight is above 0; there must be one.
    """
    total, n = float(weights.sum()), int(np.count_nonzero(weights > 0))
    ratio = values.sum(axis=0) / total
    residuals = values - weights[:, None] * ratio
    errors = np.sqrt((residuals**2).sum(axis=0) * n / max(n - 1, 1)) / total
    return ratio, errors


def exceeds(estimates: Values, errors: Values, least: float) -> NDArray[np.bool_]:
    """Return whether estimates (E,) differ from 0 by at least ``least``, at :data:`SIGNIFICANCE_LEVEL`.

    A one-sided interval around each estimate is used, not the randomisation test: a log gives a ratio of
    weighted sums and no pair of values per query, and the question is whether the gain exceeds a minimum.
    """
    nearer = np.abs(estimates) - stats.norm.ppf(1 - SIGNIFICANCE_LEVEL) * errors
    return np.asarray((nearer >= least) & (estimates != 0))
