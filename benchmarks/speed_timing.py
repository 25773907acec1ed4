"""Measuring: systems take turns, and beside every figure stands what the processor could do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from routerretriever.kernels.quantization import has_bfloat16

ROUNDS = 5
_MORE = 6.0  # seconds that more rounds may take where they are short, up to three times as many
_AT_LEAST = 0.05  # seconds of one measurement; short work is repeated


@dataclass(frozen=True)
class Machine:
    """What this processor does at best with so many threads, measured with a large product and a large copy."""

    threads: int
    device: str
    fp32_per_second: float
    bf16_per_second: float | None  # where there are no instructions for it, a product would take minutes
    bytes_per_second: float

    @classmethod
    def measured(cls, threads: int, device: str = "cpu") -> Machine:
        """Arithmetic and memory speed, the best of several rounds."""
        where = torch.device(device)
        with using_threads(threads):
            half = _flops(torch.bfloat16, where) if has_bfloat16(where) else None
            return cls(threads, device, _flops(torch.float32, where), half, _bandwidth(where))

    def to_dict(self) -> dict[str, Any]:
        """In units that people read."""
        return {
            "threads": self.threads,
            "device": self.device,
            "fp32 GFLOP/s": round(self.fp32_per_second / 1e9, 1),
            "bf16 GFLOP/s": self.bf16_per_second and round(self.bf16_per_second / 1e9, 1),
            "memory GB/s": round(self.bytes_per_second / 1e9, 1),
        }


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Let torch and numpy use so many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def _best(work: Callable[[], Any], rounds: int = 7) -> float:
    return min(_seconds(work, 1) for _ in range(rounds))


def _flops(dtype: torch.dtype, device: torch.device, size: int = 1536) -> float:
    first, second = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _best(lambda: first @ second)


def _bandwidth(device: torch.device, count: int = 2**26) -> float:
    numbers = torch.ones(count, device=device)
    return 4 * count / _best(numbers.sum)


def _seconds(work: Callable[[], Any], repeats: int) -> float:
    _synchronise()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    _synchronise()
    return (time.perf_counter() - start) / repeats


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def paired(systems: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each system in every round: A B C A B C …, after one round that only warms up; short ones get more."""
    first = {name: max(_seconds(work, 1), 1e-9) for name, work in systems.items()}
    repeats = {name: max(1, round(_AT_LEAST / seconds)) for name, seconds in first.items()}
    one_round = sum(seconds * repeats[name] for name, seconds in first.items())
    rounds = max(rounds, min(3 * rounds, int(_MORE / one_round)))
    times: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, work in systems.items():
            times[name].append(_seconds(work, repeats[name]))
    return times


def summary(times: Mapping[str, list[float]], ours: str, floor: float | None = None) -> dict[str, Any]:
    """Median milliseconds and quartiles of each system, and how many times as fast as each peer ours is.

    A speed below 1 says that the peer is faster. ``floor`` is in seconds.
    """
    result: dict[str, Any] = {"ms": {}, "quartiles": {}, "speed against": {}}
    for name, values in times.items():
        lower, middle, upper = statistics.quantiles(values, n=4)
        result["ms"][name] = round(1e3 * middle, 3)
        result["quartiles"][name] = [round(1e3 * lower, 3), round(1e3 * upper, 3)]
        if name != ours:
            ratios = [peer / own for peer, own in zip(values, times[ours], strict=True)]
            result["speed against"][name] = round(statistics.median(ratios), 3)
    if floor is not None:
        result["floor ms"] = round(1e3 * floor, 3)
    return result


def linear_weights(model: torch.nn.Module) -> int:
    """How many numbers the weights of a model's linear layers are."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))


def encoder_flops(model: torch.nn.Module, tokens: int, length: int) -> float:
    """Operations to encode so many tokens in texts of some length: the linear layers and attention."""
    linear = linear_weights(model)
    config: Any = model.config
    attention = 2 * int(config.num_hidden_layers) * length * int(config.hidden_size)
    return 2.0 * tokens * (linear + attention)
