"""The factors of experts as inputs of the adapted graph, or fused into weights."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from routerretriever.engine.engine_info import UPPER_WEIGHTS, LayerInfo
from routerretriever.lora.adapter import VECTOR_MAP, Adapter, as_array

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""A (r, in) and B (out, r) of a delta."""
Factors = dict[str, Pair]
"""Layer → factors of its delta; a layer that is left alone is missing."""
Parts = tuple[tuple[int, float], ...]
"""Numbers of experts, each with the weight of its delta."""
_MAX_KEPT = 64


class ExpertFactors:
    """The factors of a model's experts, and sums of them that were used last.

    Args:
        adapters: of all experts, in their order.
        layers: that experts may change.
        folder: of the engine.
    """

    def __init__(self, adapters: Sequence[Adapter], layers: Mapping[str, LayerInfo], folder: Path) -> None:
        self._layers = layers
        self._weights = folder / UPPER_WEIGHTS
        self._own: list[Factors] = []
        self.maps: list[Pair | None] = []
        for adapter in adapters:
            pairs = {name: _pair(adapter, name) for name in adapter.factors}
            self.maps.append(pairs.pop(VECTOR_MAP, None))
            self._own.append(pairs)
        self._together = self._side_by_side()
        self._gathered = _Gathered()
        self._lock = threading.Lock()
        self._sums: OrderedDict[Parts, Factors] = OrderedDict()

    def stacked(self, rows: Sequence[Parts]) -> dict[str, NDArray[np.float32]]:
        """Return the inputs of the adapted graph for a batch.

        Args:
            rows: what each row is changed by.

        Returns:
            ``LAYER.A`` (m, r, in) and ``LAYER.B`` (m, out, r) for every layer; m is 1 if all rows have the
            same, else the number of rows.
        """
        distinct = dict.fromkeys(rows)
        whole = [parts[0][0] for parts in rows if len(parts) == 1 and parts[0][1] == 1.0]
        if len(distinct) > 1 and len(whole) == len(rows) and len(self._together) == len(self._layers):
            return self._gathered(self._together, np.array(whole))
        sums = {parts: self._sum(parts) for parts in distinct}
        chosen = [sums[parts] for parts in (rows if len(distinct) > 1 else distinct)]
        inputs: dict[str, NDArray[np.float32]] = {}
        for name, layer in self._layers.items():
            inputs[f"{name}.A"], inputs[f"{name}.B"] = _stack([one.get(name) for one in chosen], layer)
        return inputs

    def fused(self, weight: float) -> dict[str, NDArray[np.float32]]:
        """Return the weights of the upper graph with ``weight`` times the mean delta of all experts added."""
        everything: Parts = tuple((number, weight / len(self._own)) for number in range(len(self._own)))
        found: dict[str, NDArray[np.float32]] = {}
        for name, layer in self._layers.items():
            pair = self._joined(name, everything)
            if pair is None:
                continue
            shape = (layer.inputs, layer.outputs) if layer.transposed else (layer.outputs, layer.inputs)
            stored = np.memmap(self._weights, np.float32, "r", layer.offset, shape)
            delta = pair[1] @ pair[0]
            found[layer.initializer] = stored + (delta.T if layer.transposed else delta)
        return found

    def _side_by_side(self) -> dict[str, Pair]:
        """Put the factors of all experts into two arrays for each layer, if they have the same ranks there.

        The rows of a batch are then gathered by one copy, in a fifth of the time.
        """
        together: dict[str, Pair] = {}
        for name, layer in self._layers.items():
            ranks = [len(own[name][0]) for own in self._own if name in own]
            if len(ranks) != len(self._own) or len(set(ranks)) != 1:
                return {}
            rank = ranks[0]
            a = np.empty((len(self._own), rank, layer.inputs), np.float32)
            b = np.empty((len(self._own), layer.outputs, rank), np.float32)
            for number, own in enumerate(self._own):
                a[number], b[number] = own[name]
                own[name] = a[number], b[number]
            together[name] = a, b
        return together

    def _sum(self, parts: Parts) -> Factors:
        """Return the sum of some deltas as factors of their ranks together."""
        if len(parts) == 1 and parts[0][1] == 1.0:
            return self._own[parts[0][0]]
        with self._lock:
            if parts in self._sums:
                self._sums.move_to_end(parts)
                return self._sums[parts]
        made: Factors = {}
        for name in self._layers:
            pair = self._joined(name, parts)
            if pair is not None:
                made[name] = pair
        with self._lock:
            self._sums[parts] = made
            if len(self._sums) > _MAX_KEPT:
                self._sums.popitem(last=False)
        return made

    def _joined(self, name: str, parts: Parts) -> Pair | None:
        """Return factors of the sum of some deltas of a layer, or ``None`` if it is left alone."""
        pairs = [(self._own[number][name], share) for number, share in parts if name in self._own[number]]
        if not pairs:
            return None
        a = np.concatenate([pair[0] for pair, _ in pairs])
        b = np.concatenate([pair[1] * np.float32(share) for pair, share in pairs], axis=1)
        return a, b


class _Gathered(threading.local):
    """Memory that the factors of a batch are copied to, for each thread; new memory would take longer to get."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[np.float32]] = {}

    def __call__(
        self, together: Mapping[str, Pair], experts: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float32]]:
        """Return ``LAYER.A`` (n, r, in) and ``LAYER.B`` (n, out, r) of experts (n,), until the next call."""
        inputs: dict[str, NDArray[np.float32]] = {}
        for name, pair in together.items():
            for side, every in zip("AB", pair, strict=True):
                key = f"{name}.{side}"
                kept = self._kept.get(key)
                if kept is None or len(kept) < len(experts):
                    kept = self._kept[key] = np.empty((len(experts), *every.shape[1:]), np.float32)
                inputs[key] = kept[: len(experts)]
                np.take(every, experts, axis=0, out=inputs[key], mode="clip")  # other modes copy twice
        return inputs


def _pair(adapter: Adapter, name: str) -> Pair:
    a, b = adapter.factors[name]
    if adapter.scaling != 1.0:
        b = b * adapter.scaling
    return as_array(a), as_array(b)


def _stack(pairs: Sequence[Pair | None], layer: LayerInfo) -> Pair:
    """Return A (m, r, in) and B (m, out, r); zeros fill up smaller ranks."""
    ranks = {0 if pair is None else len(pair[0]) for pair in pairs}
    if len(ranks) == 1 and 0 not in ranks:
        present = [pair for pair in pairs if pair is not None]
        if len(present) == 1:
            return present[0][0][None], present[0][1][None]
        return np.stack([a for a, _ in present]), np.stack([b for _, b in present])
    rank = max(1, *ranks)
    of_a = np.zeros((len(pairs), rank, layer.inputs), np.float32)
    of_b = np.zeros((len(pairs), layer.outputs, rank), np.float32)
    for row, pair in enumerate(pairs):
        if pair is not None:
            of_a[row, : len(pair[0])], of_b[row, :, : len(pair[0])] = pair
    return of_a, of_b
