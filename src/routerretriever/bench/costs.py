"""What each way of training costs: seconds, bytes, and the time of a query."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from routerretriever.bench.catalogue import LINEAR_ADAPTER, ROUTED, SYSTEMS
from routerretriever.bench.prepared import make_known
from routerretriever.bench.systems import MULTI_TASK, Routed
from routerretriever.lora.adapter import Adapter
from routerretriever.model import RouterRetriever
from routerretriever.routing.candidates import BASE

if TYPE_CHECKING:
    from routerretriever.bench.runner import Bench

_ROUNDS, _LONE_QUERIES, _BATCH = 5, 16, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Costly:
    """A system of the first seed as a user would run it.

    Attributes:
        encode: encodes queries.
        adapters: what was trained for it.
        seconds: expert → how long its training took, where that was recorded.
    """

    encode: Callable[[list[str]], object]
    adapters: Mapping[str, Adapter]
    seconds: Mapping[str, float]


def costs(bench: Bench) -> dict[str, dict[str, Any]]:
    """Return system → what it costs, for the first seed.

    Times of queries are medians of interleaved rounds, so that what else the machine does meets all
    systems alike. They are of this machine; only their ratios travel.

    Returns:
        For each system ``experts``, ``training_seconds`` (all experts together, without encoding
        documents; ``None`` where a training was not recorded), ``bytes`` of the factors, and
        milliseconds: ``query_ms`` for a query alone, ``batched_query_ms`` for one of a batch of 64.
    """
    systems = dict(_systems(bench))
    texts = _queries(bench)
    lone: dict[str, list[float]] = {name: [] for name in systems}
    batched: dict[str, list[float]] = {name: [] for name in systems}
    with bench.progress.task("time of queries", _ROUNDS + 1) as task:
        for number in range(_ROUNDS + 1):
            for name, system in systems.items():
                took = _seconds(lambda encode=system.encode: _one_by_one(encode, texts))  # type: ignore[misc]
                took_together = _seconds(lambda encode=system.encode: encode(texts))  # type: ignore[misc]
                if number > 0:  # the first round warms up
                    lone[name].append(took / min(_LONE_QUERIES, len(texts)))
                    batched[name].append(took_together / len(texts))
            task.advance(1)
    return {
        name: {
            "experts": len(system.adapters),
            "training_seconds": _total(system),
            "bytes": sum(adapter.nbytes for adapter in system.adapters.values()),
            "query_ms": 1000 * statistics.median(lone[name]),
            "batched_query_ms": 1000 * statistics.median(batched[name]),
        }
        for name, system in systems.items()
    }


def _systems(bench: Bench) -> Iterator[tuple[str, _Costly]]:
    """Yield what the suite compares and a user would run: the base, routers of each kind, single adapters."""
    seed = bench.suite.seeds[0]
    yield BASE, _Costly(encode=_pinned(bench.model(seed), BASE), adapters={}, seconds={})
    for name in bench.suite.systems:
        system = SYSTEMS[name]()
        if name in (MULTI_TASK, LINEAR_ADAPTER):
            model = bench.rivals(seed, [name])[name]
            encode = _pinned(model, name)
        elif isinstance(system, Routed) and (name == ROUTED or system.kind is not None):
            system.fit(make_known(bench.prepare(seed, system.kind), bench.suite.experts))
            model = bench.with_adapters(bench.model(seed, system.kind), {})
            model.state = model.state.with_policy(system.policy)
            encode = model.encode_query
        else:
            continue
        adapters = model.state.experts
        yield name, _Costly(encode=encode, adapters=adapters, seconds=bench.models.seconds(model))


def _pinned(model: RouterRetriever, expert: str) -> Callable[[list[str]], object]:
    return lambda texts: model.encode_query(texts, expert=expert)


def _queries(bench: Bench) -> list[str]:
    """Return at most a batch of test queries, from all collections in turn."""
    columns = [list(bench.test_split(name).queries.values()) for name in bench.collections]
    found: list[str] = []
    for place in range(max(map(len, columns))):
        found += [column[place] for column in columns if place < len(column)]
    return found[:_BATCH]


def _one_by_one(encode: Callable[[list[str]], object], texts: list[str]) -> None:
    for text in texts[:_LONE_QUERIES]:
        encode([text])


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _total(system: _Costly) -> float | None:
    if any(name not in system.seconds for name in system.adapters):
        return None
    return sum(system.seconds[name] for name in system.adapters)
