"""Intervals and tests of differences between systems."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import stats

if TYPE_CHECKING:
    pass


def bootstrap_interval(values: NDArray[np.float64], resamples: int = 2000) -> list[float]:
    """95% percentile bootstrap interval of the mean over queries."""
    if len(values) < 2 or np.ptp(values) == 0:
        return [float(values.mean())] * 2
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return [float(interval.low), float(interval.high)]


def paired_p_value(values: NDArray[np.float64], base: NDArray[np.float64], resamples: int = 9999) -> float:
    """Two-sided paired randomisation test on the mean difference (Smucker et al. 2007)."""
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
