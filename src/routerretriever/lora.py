"""LoRA adapters: their factors, the linear layer that applies them, and PEFT's file format.

A LoRA adapter (Hu et al. 2021, arXiv 2106.09685) adds ``scaling * B @ A`` to the weight of a linear
layer, where ``A`` has shape (r, in_features) and ``B`` has shape (out_features, r).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from routerretriever.errors import ExpertError

if TYPE_CHECKING:
    from collections.abc import Iterator

PEFT_PREFIX = "base_model.model."
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Adapter:
    """The LoRA factors of one expert.

    Attributes:
        factors: module name → (A, B), shapes (r, in_features) and (out_features, r).
        scaling: the factor applied to every ``B @ A`` (PEFT's ``lora_alpha / r``).
    """

    factors: dict[str, tuple[Tensor, Tensor]]
    scaling: float

    @property
    def rank(self) -> int:
        """The largest rank of any factor pair."""
        return max((a.shape[0] for a, _ in self.factors.values()), default=0)

    @property
    def fingerprint(self) -> str:
        """A hash of the update's factors, the scaling folded into B: it survives saving and loading."""
        digest = hashlib.blake2b(digest_size=16)
        for name, (a, b) in sorted(self.factors.items()):
            digest.update(f"{name} {tuple(a.shape)} {tuple(b.shape)}".encode())
            for factor in (a, b * self.scaling):
                digest.update(factor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def parameters(self) -> list[Tensor]:
        """All factors, in a stable order."""
        return [tensor for pair in self.factors.values() for tensor in pair]

    def detached(self) -> Adapter:
        """A copy of the factors on the CPU that no optimiser touches."""
        return Adapter(
            {name: (a.detach().clone().cpu(), b.detach().clone().cpu()) for name, (a, b) in self.factors.items()},
            self.scaling,
        )

    def scaled(self, strength: float) -> Adapter:
        """The same factors with a smaller or larger update."""
        return Adapter(self.factors, self.scaling * strength)

    def placed(self, like: Tensor) -> Adapter:
        """The factors on a tensor's device and in its precision."""
        if all(factor.device == like.device and factor.dtype == like.dtype for factor in self.parameters()):
            return self
        return self.mapped(lambda factor: factor.to(like))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Adapter:
        """The factors after something was done to each."""
        return Adapter({name: (change(a), change(b)) for name, (a, b) in self.factors.items()}, self.scaling)

    def pair(self, layer: LoraLinear, rank: int) -> tuple[Tensor, Tensor]:
        """A and B for a layer, padded with zeros to a rank; nothing but zeros where the layer is left alone."""
        if layer.name not in self.factors:
            zeros = layer.weight.new_zeros
            return zeros(rank, layer.in_features), zeros(layer.out_features, rank)
        a, b = self.factors[layer.name]
        missing = rank - a.shape[0]
        return (F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing))) if missing else (a, b)

    @classmethod
    def initial(cls, layers: Mapping[str, LoraLinear], rank: int, alpha: float, generator: torch.Generator) -> Adapter:
        """PEFT's initialisation: A Kaiming-uniform, B zero, so that training starts at the base."""
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in layers.items():
            a = torch.empty(rank, layer.in_features)
            nn.init.kaiming_uniform_(a, a=5**0.5, generator=generator)
            b = torch.zeros(layer.out_features, rank)
            device = layer.weight.device
            factors[name] = (a.to(device).requires_grad_(), b.to(device).requires_grad_())
        return cls(factors, alpha / rank)


class Plan(Protocol):
    """How a linear layer treats the rows it is given."""

    def __call__(self, layer: LoraLinear, x: Tensor) -> Tensor: ...


class Selection(threading.local):
    """The plan in force in this thread; ``None`` means the plain base."""

    plan: Plan | None = None

    def __reduce__(self) -> tuple[type[Selection], tuple[()]]:
        return Selection, ()

    @contextmanager
    def use(self, plan: Plan | None) -> Iterator[None]:
        """Apply ``plan`` within the block."""
        previous, self.plan = self.plan, plan
        try:
            yield
        finally:
            self.plan = previous


class LoraLinear(nn.Linear):
    """A linear layer that can apply the experts' low-rank updates.

    It shares the base layer's own parameters under their own names, so the state dict of the
    surrounding model stays that of the plain base. The experts' factors come with the plan.
    """

    def __init__(self, base: nn.Linear, name: str, selection: Selection) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.name, self.selection = name, selection
        self.half_weight: tuple[Tensor, Tensor | None] | None = None

    def merged_weight(self, adapters: Sequence[Adapter], share: float) -> Tensor:
        """The weight with a share of the mean update of some experts added."""
        pairs = [adapter.pair(self, adapter.rank) for adapter in adapters]
        a = torch.cat([a for a, _ in pairs])
        b = torch.cat([b * adapter.scaling for adapter, (_, b) in zip(adapters, pairs, strict=True)], dim=1)
        return torch.addmm(self.weight.detach(), b, a, alpha=share / len(adapters))

    def in_half_precision(self, x: Tensor) -> Tensor:
        """The base's own product, computed in bfloat16; gradients reach ``x`` alone."""
        if self.half_weight is None or self.half_weight[0].device != x.device:
            bias = None if self.bias is None else self.bias.detach().bfloat16()
            self.half_weight = self.weight.detach().bfloat16(), bias
        product: Tensor = _HalfProduct.apply(x, *self.half_weight)  # type: ignore[no-untyped-call]
        return product

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own parameter name
        """Apply the plan in force; without one this is ``nn.Linear`` exactly."""
        plan = self.selection.plan
        if plan is None:
            return F.linear(input, self.weight, self.bias)
        return plan(self, input)


class _HalfProduct(torch.autograd.Function):
    """``x @ weight.T + bias`` in bfloat16 for a frozen weight, its result and gradient in x's precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return F.linear(x.bfloat16(), weight, bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return (gradient.bfloat16() @ ctx.weight).to(gradient.dtype), None, None


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """All rows use one adapter whose factors may need gradients.

    Attributes:
        dropout: of the adapter's input.
        half: multiply by the frozen weights in bfloat16; the adapter's own products keep their precision.
    """

    adapter: Adapter
    dropout: float = 0.0
    half: bool = False

    def __call__(self, layer: LoraLinear, x: Tensor) -> Tensor:
        base = layer.in_half_precision(x) if self.half else F.linear(x, layer.weight, layer.bias)
        if layer.name not in self.adapter.factors:
            return base
        a, b = self.adapter.factors[layer.name]
        x = F.dropout(x, self.dropout) if self.dropout else x
        return base + F.linear(F.linear(x, a), b * self.adapter.scaling)


@dataclass(frozen=True, slots=True)
class MergedPlan:
    """All rows use a share of the mean of some experts, folded into the weight: as fast as the base.

    The weights are made when a layer first asks for them, and live as long as the plan does.
    """

    adapters: tuple[Adapter, ...]
    share: float = 1.0
    weights: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, layer: LoraLinear, x: Tensor) -> Tensor:
        weight = self.weights.get(layer.name)
        if weight is None or (weight.device, weight.dtype) != (layer.weight.device, layer.weight.dtype):
            weight = self.weights[layer.name] = layer.merged_weight(self.adapters, self.share)
        return F.linear(x, weight, layer.bias)


@dataclass(frozen=True, slots=True)
class GatheredPlan:
    """Row i uses the sum of a few experts' updates, by two batched products over stacked factors.

    Attributes:
        adapters: k of each row, row after row (n · k).
        rank: the largest of theirs.
        shares: how much of each (n, k), their scaling included; ``None`` is all of it.
    """

    adapters: tuple[Adapter, ...]
    rank: int
    shares: Tensor | None = None

    @classmethod
    def of(cls, experts: Sequence[Adapter], chosen: Tensor, shares: Tensor | None = None) -> GatheredPlan:
        """The plan in which rows use the experts ``chosen`` (n, k), and ``shares`` (n, k) of their updates."""
        numbers = chosen.flatten().tolist()
        adapters = tuple(experts[number] for number in numbers)
        rank = max(experts[number].rank for number in set(numbers))
        if any(adapter.scaling != 1.0 for adapter in adapters):
            scaling = torch.tensor([adapter.scaling for adapter in adapters], device=chosen.device).view(chosen.shape)
            shares = scaling if shares is None else shares * scaling
        return cls(adapters, rank, shares)

    def __call__(self, layer: LoraLinear, x: Tensor) -> Tensor:
        n, rank = len(x), self.rank
        k = len(self.adapters) // n
        pairs = [adapter.pair(layer, rank) for adapter in self.adapters]
        a = torch.stack([a for a, _ in pairs]).view(n, k * rank, -1)
        b = torch.stack([b for _, b in pairs])
        if k > 1:
            b = b.view(n, k, -1, rank).transpose(1, 2).reshape(n, -1, k * rank)
        low = torch.bmm(x, a.transpose(1, 2))
        if self.shares is not None:
            low = low * self.shares.repeat_interleave(rank, dim=1)[:, None].to(low.dtype)
        return F.linear(x, layer.weight, layer.bias).baddbmm_(low, b.transpose(1, 2))


@dataclass(frozen=True, slots=True)
class SlicedPlan:
    """Rows stand group by group, and each group uses the whole update of one expert.

    Attributes:
        adapters: one a group.
        sizes: rows of each group.
    """

    adapters: tuple[Adapter, ...]
    sizes: tuple[int, ...]

    def __call__(self, layer: LoraLinear, x: Tensor) -> Tensor:
        output = F.linear(x, layer.weight, layer.bias)
        groups = zip(self.adapters, x.split(self.sizes), output.split(self.sizes), strict=True)
        for adapter, rows, result in groups:
            if layer.name in adapter.factors:
                a, b = adapter.factors[layer.name]
                low = F.linear(rows.reshape(-1, layer.in_features), a)
                result.view(-1, layer.out_features).addmm_(low, b.T, alpha=adapter.scaling)
        return output


def save_adapter(adapter: Adapter, directory: Path, *, base: str, revision: str | None) -> None:
    """Write an adapter in PEFT's format, naming the base by hub id and never by a local path.

    The same update gives the same bytes, so that versions can be told apart by their files.
    """
    from peft import LoraConfig, TaskType

    directory.mkdir(parents=True, exist_ok=True)
    smaller = {name: a.shape[0] for name, (a, _) in sorted(adapter.factors.items()) if a.shape[0] != adapter.rank}
    config = LoraConfig(
        base_model_name_or_path=base,
        revision=revision,
        task_type=TaskType.FEATURE_EXTRACTION,
        inference_mode=True,
        r=adapter.rank,
        lora_alpha=adapter.rank,  # a scaling of 1: the adapter's own goes into B, as it does when it is read
        rank_pattern=smaller,
        alpha_pattern=smaller,
        target_modules=sorted(adapter.factors),
    )
    config.save_pretrained(str(directory))
    written = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    written["target_modules"] = sorted(adapter.factors)  # PEFT keeps a set, whose order changes with the process
    (directory / ADAPTER_CONFIG).write_text(json.dumps(written, indent=2, sort_keys=True), encoding="utf-8")
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in adapter.factors.items():
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = a.detach().cpu().contiguous()
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = (b.detach() * adapter.scaling).cpu().contiguous()
    save_file(tensors, str(directory / ADAPTER_WEIGHTS), metadata={"format": "pt"})


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """PEFT's ``adapter_config.json`` as a dictionary; refuses what cannot be served."""
    path = directory / ADAPTER_CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExpertError(f"{directory} is not a PEFT adapter: it has no {ADAPTER_CONFIG}.") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise ExpertError(f"{path} is not valid JSON ({error}). Export the adapter again.") from error
    for key, wanted in {"peft_type": ("LORA",), "use_dora": (None, False), "bias": (None, "none")}.items():
        if config.get(key) not in wanted:
            raise ExpertError(
                f"{path}: {key}={config[key]!r} is not supported; train the adapter as plain LoRA with bias='none'."
            )
    return config


def load_adapter(directory: Path, layers: Iterable[str]) -> Adapter:
    """Read a PEFT LoRA adapter and match its tensors to the layers of this base.

    Args:
        directory: holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        layers: names of the linear layers that experts may change.

    Raises:
        ExpertError: the files are missing, damaged, or touch a layer that experts may not change.
    """
    config = read_adapter_config(directory)
    path = directory / ADAPTER_WEIGHTS
    try:
        tensors = load_file(str(path), backend="pread")  # a mapped file would stay in memory beside the factors
    except FileNotFoundError as error:
        raise ExpertError(
            f"{directory} has no {ADAPTER_WEIGHTS}; save the adapter with safe_serialization=True."
        ) from error
    except (SafetensorError, OSError) as error:
        raise ExpertError(f"{path} is damaged ({error}). Copy the adapter again.") from error
    known = sorted(layers, key=len, reverse=True)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for key, a in tensors.items():
        module, marker, _ = key.partition(".lora_A.")
        if not marker:
            continue
        name = _match_layer(module, known, directory)
        b_key = key.replace(".lora_A.", ".lora_B.")
        if b_key not in tensors:
            raise ExpertError(f"{path} is incomplete: it has {key} but not {b_key}.")
        b, scaling = tensors[b_key].float(), _scaling(config, module, a.shape[0])
        factors[name] = (a.float(), b if scaling == 1.0 else b * scaling)
    if not factors:
        raise ExpertError(f"{path} holds no LoRA factors (rank 0). Train or export the adapter again.")
    # PEFT lets every module have its own scaling, so each is folded into its B.
    return Adapter(factors, 1.0)


def _match_layer(module: str, known: Sequence[str], directory: Path) -> str:
    name = module.removeprefix(PEFT_PREFIX)
    for candidate in known:
        # Checkpoints of task models carry the encoder below a prefix such as "bert.".
        if name == candidate or name.endswith("." + candidate):
            return candidate
    raise ExpertError(
        f"The adapter in {directory} changes '{name}', which is not a linear layer that experts of "
        "this model may change. Either it belongs to another base, or it reaches below the model's "
        "branch layer: then create the model with a lower branch layer (branch_layer=0 allows all)."
    )


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = config.get("lora_alpha", rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if module.endswith(pattern):
            alpha = value
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)
