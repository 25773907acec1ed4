"""What a device can multiply fast."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from routerretriever.errors import ModelError


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions for products in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases do not say
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


class Int8Linear(nn.Module):
    """A linear layer whose product is computed in integers of 8 bits.

    Every output has a scale of its own for its weights, the inputs of a call share one (dynamic quantisation). Weights
    get 7 bits, so that sums of two products do not overflow where a processor lacks VNNI's instructions; inputs, whose
    range is wider, need all 8.

    Raises:
        ModelError: torch cannot, as on processors that are not x86.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        bias = None if layer.bias is None else layer.bias.detach().float()
        try:
            self.packed = _packed(layer.weight.detach(), bias)
        except (AttributeError, RuntimeError) as error:
            raise ModelError(f"Torch cannot multiply in 8 bits here ({error}). Choose fp32.") from error

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (…, out) of inputs (…, in), in their precision."""
        result: Tensor = torch.ops.quantized.linear_dynamic(x.float(), self.packed, False)
        return result.to(x.dtype)


def _packed(weight: Tensor, bias: Tensor | None) -> Any:
    """Return weights (out, in) rounded to 7 bits, as torch's integer product wants them."""
    weight = weight.float()
    scales = weight.abs().amax(dim=1).clamp(min=1e-12).double() / 63
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that a later release will not have these
        rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(rounded, bias)
