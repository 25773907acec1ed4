"""What a device can multiply fast."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases do not say
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def int8_product(points: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Queries (n, d) → products with points (P, d), both rounded to 8 bits; ``None`` where torch cannot.

    Every point has a scale of its own, the queries of a batch share one (dynamic quantisation).
    """
    scales = points.abs().amax(dim=1).clamp(min=1e-12).double() / 127
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces that a later release will not have these
            zeros = torch.zeros(len(points), dtype=torch.int64)
            rounded = torch.quantize_per_channel(points.float(), scales, zeros, 0, torch.qint8)
            packed = torch.ops.quantized.linear_prepack(rounded, None)

        def product(queries: Tensor) -> Tensor:
            # Without VNNI's instructions sums of two full bytes overflow, so the queries get 7 bits.
            result: Tensor = torch.ops.quantized.linear_dynamic(queries.float(), packed, True)
            return result

        product(points[:1])
    except (AttributeError, RuntimeError):
        return None
    return product
