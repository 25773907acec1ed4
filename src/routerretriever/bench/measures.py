"""Figures beside nDCG@10: what a router recovers, whom it hurts, and whether its predictions hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from routerretriever.evaluation.statistics import paired_p_value

Values = NDArray[np.float64]
"""One figure per query (n,)."""

_TIE = 1e-9


def recovered_share(system: float, base: float, oracle: float) -> float | None:
    """Return the share of the oracle's gain over base; ``None`` if the oracle gains nothing."""
    if oracle - base <= _TIE:
        return None
    return (system - base) / (oracle - base)


def hurt_and_helped(values: Values, base: Values) -> tuple[float, float]:
    """Return the shares of queries below and above base."""
    return float((values < base - _TIE).mean()), float((values > base + _TIE).mean())


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction for many comparisons (Holm 1979)."""
    ordered = sorted(p_values, key=p_values.__getitem__)
    corrected, largest = {}, 0.0
    for place, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - place) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def pooled_p_value(system: Sequence[Values], other: Sequence[Values]) -> float:
    """Paired randomisation test over the queries of all collections together."""
    return paired_p_value(np.concatenate(system), np.concatenate(other))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Predicted against measured gain of the chosen expert, in bins of equally many queries.

    Attributes:
        predicted, measured: mean of each bin, in nDCG@10.
        counts: queries in each bin.
        error: expected calibration error, the mean absolute difference weighted by count.
    """

    predicted: tuple[float, ...]
    measured: tuple[float, ...]
    counts: tuple[int, ...]
    error: float


def calibration(predicted: Values, measured: Values, bins: int = 10) -> Calibration | None:
    """Reliability of predicted gains; ``None`` without predictions."""
    if not len(predicted):
        return None
    predicted_means, measured_means, counts, errors = [], [], [], []
    for part in np.array_split(np.argsort(predicted, kind="stable"), bins):
        if not len(part):  # there are fewer queries than bins
            continue
        predicted_mean = float(predicted[part].mean())
        measured_mean = float(measured[part].mean())
        predicted_means.append(predicted_mean)
        measured_means.append(measured_mean)
        counts.append(len(part))
        errors.append(len(part) * abs(predicted_mean - measured_mean))
    return Calibration(
        predicted=tuple(predicted_means),
        measured=tuple(measured_means),
        counts=tuple(counts),
        error=float(sum(errors) / len(predicted)),
    )


def abstention_auroc(seen: Sequence[Values], unseen: Sequence[Values]) -> float | None:
    """How well the in-domain score tells queries of seen collections from those of unseen ones (1 is perfectly)."""
    if not seen or not unseen:
        return None
    known, unknown = np.concatenate(seen), np.concatenate(unseen)
    labels = np.concatenate([np.ones(len(known)), np.zeros(len(unknown))])
    return float(roc_auc_score(labels, np.concatenate([known, unknown])))
