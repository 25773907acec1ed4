"""What a device can multiply fast."""

from __future__ import annotations

from typing import Any

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases do not say
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
