"""RoutedEncoder: one forward pass in which every row of a batch may have its own expert.

The layers below the branch layer are the base's and shared. Entering the branch layer, the pooled
hidden state of each row (the route embedding) goes to the routing policy, which answers with a
weight for every candidate; the layers above then run once per group of rows that can be treated
alike. Documents, and queries pinned to the base, run through the untouched base.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.modules import InputModule, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from torch.nn import functional as F

from routerretriever.errors import ExpertError, ModelError
from routerretriever.kernels import attention
from routerretriever.kernels.quantization import Int8Linear
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.expert_info import BaseInfo, ExpertInfo
from routerretriever.lora.layers import GatheredPlan, LoraLinear, MergedPlan, Plan, Selection, SlicedPlan
from routerretriever.routing.candidates import BASE, MERGED, ROUTED
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.storage.model_folder import read_encoder, write_encoder

# A group with fewer tokens than this is cheaper with gathered factors than with weights of its own.
MIN_MERGED_TOKENS = 320
# Small groups of at least so many rows on average are cheaper one after another than with factors for every row.
MIN_SLICE_ROWS = 3
# Merged weights kept at a time, counted in experts.
MERGED_CACHE_SIZE = 16

# Threads may encode at the same time. The tokeniser refuses to be used while another one changes its padding.
_MERGING, _TOKENISING = threading.Lock(), threading.Lock()

_PROBES = ("how do I untar a directory", "aspirin reduces the risk of stroke", "§ 4.2 café 東京")
_FIRST_PROBE = "a"  # as a rule it tells that an expert is not silent
BEGINNING = 32
"""Characters a token, at first, that a long text is cut after before it is tokenised; most have four or five."""
_SPACE = re.compile(r"(?<=\S)\s")
_BLOCK = 64  # experts probed at a time
_NUMPY: Any = {"common": {"return_tensors": "np"}}  # transformers makes torch tensors from lists, number by number

RoutePolicy = Callable[[Tensor], Tensor]
"""Route embeddings (n, d) → shares (n, 2 + E) of the updates of base (none), merged and each expert."""


@dataclass(slots=True)
class _Deferred:
    """The calls of the upper layers, held back until the last of them is reached."""

    decide: RoutePolicy
    attention_mask: Tensor
    stop_at_branch: bool = False
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    hidden: Tensor | None = None
    route_embeddings: Tensor | None = None
    weights: Tensor | None = None


class _State(threading.local):
    """What this thread's forward pass is doing besides the plain base."""

    deferred: _Deferred | None = None
    resume: Tensor | None = None
    layers: Sequence[nn.Module] | None = None

    def __reduce__(self) -> tuple[type[_State], tuple[()]]:
        return _State, ()


class _Int8Layers:
    """Copies of the layers whose products are computed in 8 bits, made when they are first asked for."""

    layers: Sequence[nn.Module] | None = None

    def __reduce__(self) -> tuple[type[_Int8Layers], tuple[()]]:
        return _Int8Layers, ()


class _LayerForward:
    """Stands in for ``layer.forward``: runs it at once, skips it, defers it, or has another layer run."""

    def __init__(self, encoder: RoutedEncoder, layer: nn.Module, index: int) -> None:
        self.encoder, self.layer, self.index = encoder, layer, index

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        state, branch = self.encoder.state, self.encoder.branch_layer
        if state.layers is not None and self.encoder.passes_plainly():
            return state.layers[self.index](*args, **kwargs)
        if "hidden_states" in kwargs:
            args = (kwargs.pop("hidden_states"), *args)
        hidden, *rest = args
        if state.resume is not None and self.index < branch:
            return self._answer(hidden)
        if state.resume is not None and self.index == branch:
            hidden = state.resume
        if state.deferred is None or self.index < branch:
            return type(self.layer).forward(self.layer, hidden, *rest, **kwargs)
        state.deferred.calls.append((self.layer, tuple(rest), kwargs))
        if self.index == self.encoder.num_layers - 1:
            hidden = self.encoder.run_upper(state.deferred, hidden)
        return self._answer(hidden)

    def _answer(self, hidden: Tensor) -> Any:
        return (hidden,) if self.encoder.returns_tuple else hidden


class RoutedEncoder(InputModule):
    """The base encoder, its pooling, the experts' adapters and the routed forward pass.

    Args:
        transformer: the base's transformer module; frozen by this class.
        head: the modules after it (pooling, and possibly dense and normalize).
        branch_layer: index of the first layer that experts may change; default: the upper half.
        route_layer: where the route embedding is read: ``branch_layer`` (one forward pass) or -1, the
            number of layers (the final sentence embedding, at the price of a second pass).
    """

    # Saved models name this class by this path.
    __module__ = "routerretriever.encoder"

    forward_kwargs: ClassVar[set[str]] = {"task", "expert", "route_only"}  # type: ignore[misc]
    save_in_root = True

    def __init__(
        self,
        transformer: Transformer,
        head: Sequence[nn.Module],
        branch_layer: int | None = None,
        route_layer: int | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.transformer = transformer.requires_grad_(False)
        attention.install(transformer.model.config)
        self.head = nn.ModuleList(head).requires_grad_(False)
        layers = self._find_layers()
        self.num_layers = len(layers)
        self.branch_layer = self.num_layers // 2 if branch_layer is None else branch_layer
        self.route_layer = self.branch_layer if route_layer is None else route_layer
        if self.route_layer == -1:
            self.route_layer = self.num_layers
        self._check_layers()
        self.experts: OrderedDict[str, Adapter] = OrderedDict()
        self.expert_info: dict[str, ExpertInfo] = {}
        self.base = BaseInfo("unknown")
        self.policy: RoutingPolicy | None = None
        self.selection, self.state = Selection(), _State()
        self._merged: OrderedDict[tuple[tuple[str, ...], float], MergedPlan] = OrderedDict()
        self._int8 = _Int8Layers()
        self._fingerprint: str | None = None
        self.returns_tuple = self._probe_layer_output(layers[0])
        self.lora_layers = self._install(layers)

    # -- construction ------------------------------------------------------------------------------

    @classmethod
    def from_modules(cls, modules: Sequence[nn.Module], **kwargs: Any) -> Self:
        """Wrap the modules of a plain Sentence Transformers model."""
        first, *rest = modules
        if not isinstance(first, Transformer) or not rest or not isinstance(rest[0], Pooling):
            kinds = ", ".join(type(module).__name__ for module in modules)
            raise ModelError(
                f"The base must be a transformer followed by pooling, but its modules are: {kinds}. "
                "Use a dense single-vector encoder such as sentence-transformers/all-MiniLM-L6-v2."
            )
        return cls(first, rest, **kwargs)

    def _find_layers(self) -> nn.ModuleList:
        wanted = getattr(self.transformer.model.config, "num_hidden_layers", None)
        for module in self.transformer.model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == wanted:
                return module
        raise ModelError(
            f"No stack of {wanted} layers was found in {type(self.transformer.model).__name__}. "
            "Supported bases are BERT, RoBERTa, XLM-RoBERTa, MPNet and ModernBERT encoders."
        )

    def _check_layers(self) -> None:
        if not 0 <= self.branch_layer < self.num_layers:
            raise ModelError(f"branch_layer must lie in 0..{self.num_layers - 1}, but is {self.branch_layer}.")
        if self.route_layer not in (self.branch_layer, self.num_layers):
            raise ModelError(
                f"route_layer must be the branch layer ({self.branch_layer}: one forward pass) or "
                f"{self.num_layers} (the final embedding: two passes), but is {self.route_layer}."
            )

    def _probe_layer_output(self, layer: nn.Module) -> bool:
        """Whether layers of this architecture answer with a tuple (MPNet) or a tensor (others)."""
        seen: list[bool] = []
        handle = layer.register_forward_hook(lambda *a: seen.append(isinstance(a[2], tuple)))
        try:
            with torch.no_grad():
                self.transformer(self.tokenized(["probe"]))
        finally:
            handle.remove()
        return seen[0]

    def _install(self, layers: nn.ModuleList) -> dict[str, LoraLinear]:
        prefixes = {id(module): name for name, module in self.transformer.model.named_modules()}
        installed: dict[str, LoraLinear] = {}
        for index, layer in enumerate(layers):
            layer.forward = _LayerForward(self, layer, index)
            if index < self.branch_layer:
                continue
            for name, module in list(layer.named_modules()):
                if not isinstance(module, nn.Linear):
                    continue
                full_name = f"{prefixes[id(layer)]}.{name}"
                installed[full_name] = LoraLinear(module, full_name, self.selection)
                _set_submodule(layer, name, installed[full_name])
        return installed

    # -- experts -----------------------------------------------------------------------------------

    @property
    def candidates(self) -> tuple[str, ...]:
        """What a query may be encoded with: base, merged, and each expert, in this order."""
        return (BASE, MERGED, *self.experts)

    def column(self, candidate: str) -> int:
        """The place of a candidate among :attr:`candidates`.

        Raises:
            ExpertError: there is no such candidate.
        """
        if candidate not in self.candidates:
            known = ", ".join(self.candidates)
            raise ExpertError(f"There is no expert '{candidate}' in this model. Choose one of: {known}.")
        return self.candidates.index(candidate)

    def expert(self, name: str) -> Adapter:
        """The adapter of an expert.

        Raises:
            ExpertError: there is no such expert; base and merged are none.
        """
        if name not in self.experts:
            known = ", ".join(self.experts) or "none"
            raise ExpertError(f"There is no expert '{name}' in this model. Its experts: {known}.")
        return self.experts[name]

    def set_experts(self, experts: OrderedDict[str, Adapter]) -> None:
        """Replace the whole set of experts; documents are not affected."""
        known = {id(adapter) for adapter in self.experts.values()}  # to place thousands of factors again takes long
        self.experts = OrderedDict((name, a if id(a) in known else self._placed(a)) for name, a in experts.items())
        self._merged = OrderedDict()

    def _placed(self, adapter: Adapter) -> Adapter:
        return adapter.placed(next(iter(self.lora_layers.values())).weight.detach())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What torch calls to move or cast a module; the experts are no parameters, but go along."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.experts = OrderedDict((name, self._placed(adapter)) for name, adapter in self.experts.items())
        self._merged, self._int8 = OrderedDict(), _Int8Layers()
        return self

    def silent_experts(self, names: Sequence[str] | None = None, tolerance: float = 1e-6) -> list[str]:
        """Those of some experts that change no probe query's vector by more than ``tolerance``, or make it NaN."""
        silent = list(self.experts) if names is None else list(names)
        for probe in (_FIRST_PROBE, *_PROBES):
            silent = [name for block in _blocks(silent) for name in self._unchanged(block, probe, tolerance)]
        return silent

    @torch.inference_mode()
    def _unchanged(self, names: Sequence[str], probe: str, tolerance: float) -> list[str]:
        features = self.tokenized([probe])
        (hidden,) = self.hidden_at_branch(features)
        base = self.finish(None, features, [hidden])
        many = {k: v.expand(len(names), *v.shape[1:]) if isinstance(v, Tensor) else v for k, v in features.items()}
        chosen = torch.arange(len(names), device=hidden.device)[:, None]
        plan = GatheredPlan.of([self.experts[name] for name in names], chosen)
        changes = (self.finish(plan, many, [hidden] * len(names)) - base).abs().amax(dim=1)
        return [name for name, change in zip(names, changes.tolist(), strict=True) if not change > tolerance]

    def hidden_at_branch(self, features: dict[str, Any]) -> list[Tensor]:
        """The hidden states entering the branch layer, one (tokens, d) tensor a row, unpadded."""
        deferred = _Deferred(self._choose_base, features["attention_mask"], stop_at_branch=True)
        self.state.deferred = deferred
        try:
            with attention.over_queries():
                self.transformer(dict(features))
        finally:
            self.state.deferred = None
        assert deferred.hidden is not None
        kept = features["attention_mask"].bool()
        return [row[mask] for row, mask in zip(deferred.hidden, kept, strict=True)]

    def pooled_by_layer(self, features: dict[str, Any]) -> list[Tensor]:
        """The base's hidden states entering each layer, mean-pooled to unit vectors (n, d), then its embedding."""
        entering: list[Tensor] = []

        def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            entering.append(_mean_pool(hidden, features["attention_mask"]))

        handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in self._find_layers()]
        try:
            final: Tensor = self._encode(dict(features))["sentence_embedding"]
        finally:
            for handle in handles:
                handle.remove()
        return [*entering, F.normalize(final.float(), dim=-1)]

    def finish(self, plan: Plan | None, features: dict[str, Any], hidden: list[Tensor] | None) -> Tensor:
        """Sentence embeddings (n, d) with ``plan`` in force in the upper layers.

        ``hidden``, from :meth:`hidden_at_branch`, saves the work of the frozen lower layers.
        """
        if hidden is not None:
            self.state.resume = _pad_like(hidden, features["attention_mask"])
        try:
            with self.selection.use(plan), attention.over_queries():
                vectors: Tensor = self._encode(dict(features))["sentence_embedding"]
        finally:
            self.state.resume = None
        return vectors

    def pinned_plan(self, expert: str) -> Plan | None:
        """The plan that gives all rows to the base, the merged expert or one expert.

        Raises:
            ExpertError: there is no such candidate.
        """
        return self._merged_plan(self.column(expert))

    def mean_plan(self, experts: Sequence[str], share: float = 1.0) -> Plan:
        """The plan that gives all rows a share of the mean of some experts, as if the others were not there."""
        return self._remembered(tuple(experts), share)

    def blended_plan(self, shares: Tensor) -> Plan:
        """The plan that gives each row the sum of shares (n, E) of the experts' updates."""
        most = int((shares > 0).sum(dim=1).max())
        top = shares.topk(max(1, most), dim=1)
        whole = bool((top.values == 1.0).all())
        return GatheredPlan.of(list(self.experts.values()), top.indices, None if whole else top.values)

    # -- the forward pass --------------------------------------------------------------------------

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenise; arguments meant for :meth:`forward` are ignored here."""
        for key in ("expert", "route_only"):
            kwargs.pop(key, None)
        with _TOKENISING:
            inputs = [self._beginning(text) if isinstance(text, str) else text for text in inputs]
            features: dict[str, Any] = self.transformer.preprocess(inputs, prompt=prompt, **kwargs)
        return features

    def forward(
        self,
        features: dict[str, Tensor | Any],
        task: str | None = None,
        expert: str | None = None,
        route_only: bool = False,
        **kwargs: Any,
    ) -> dict[str, Tensor | Any]:
        """Encode one batch.

        Args:
            features: the tokenised batch, as from :meth:`preprocess`.
            task: ``"query"`` allows routing; anything else is encoded by the plain base.
            expert: pins ``"base"``, ``"merged"`` or an expert's name; ``"routed"`` or ``None`` routes.
            route_only: stop at the branch layer, with the route embeddings only.

        Returns:
            features with ``sentence_embedding`` (n, d) and, when routed, ``route_embedding``
            (n, d_route) and ``route_weights`` (n, 2 + E).

        Raises:
            ExpertError: there is no expert of that name, or one was asked for a document.
        """
        if task != "query":
            if expert not in (None, BASE):
                raise ExpertError("Documents are always encoded by the base; leave out expert=….")
            return self._encode(features)
        if route_only:
            return self.forward_by(features, self._choose_base, route_only=True)
        if expert in (None, ROUTED):
            if self.policy is None:
                return self._encode(features)
            return self.forward_by(features, self.policy)
        return self._pinned(features, str(expert))

    def _encode(self, features: dict[str, Any]) -> dict[str, Any]:
        return self._pool(self.transformer(features))

    def _pool(self, features: dict[str, Any]) -> dict[str, Any]:
        for module in self.head:
            features = module(features)
        return features

    def _pinned(self, features: dict[str, Any], expert: str) -> dict[str, Any]:
        plan = self.pinned_plan(expert)
        if plan is None:
            return self._encode(features)
        with self.selection.use(plan), attention.over_queries():
            return self._encode(features)

    @contextmanager
    def in_int8(self) -> Iterator[None]:
        """Within the block, what this thread encodes by the base alone, documents above all, is computed in 8 bits.

        Raises:
            ModelError: torch cannot here; see :class:`routerretriever.precision.Int8Linear`.
        """
        int8 = self._int8
        if int8.layers is None:
            int8.layers = [self._in_int8(layer) for layer in self._find_layers()]
        previous, self.state.layers = self.state.layers, int8.layers
        try:
            yield
        finally:
            self.state.layers = previous

    def passes_plainly(self) -> bool:
        """Whether this thread's pass is the base's own, without a router or an expert."""
        return self.state.deferred is None and self.state.resume is None and self.selection.plan is None

    def _in_int8(self, layer: nn.Module) -> nn.Module:
        twin = copy.deepcopy(layer, {id(self): self})
        del twin.forward  # what stands in for the layer's own
        for name, module in list(twin.named_modules()):
            if isinstance(module, nn.Linear):
                _set_submodule(twin, name, Int8Linear(module))
        return twin.eval()  # no part of the model, so nothing else would tell it

    def _choose_base(self, route_embeddings: Tensor) -> Tensor:
        weights = route_embeddings.new_zeros(len(route_embeddings), len(self.candidates))
        weights[:, 0] = 1.0
        return weights

    def forward_by(self, features: dict[str, Any], decide: RoutePolicy, route_only: bool = False) -> dict[str, Any]:
        """One pass of a tokenised batch in which ``decide`` says what encodes each row; see :meth:`forward`."""
        mask = features["attention_mask"]
        deferred = _Deferred(decide, mask, stop_at_branch=route_only)
        if self.route_layer == self.num_layers:
            first = self._encode(dict(features))
            deferred.route_embeddings = F.normalize(first["sentence_embedding"].float(), dim=-1)
            if route_only:
                return {**first, "route_embedding": deferred.route_embeddings}
        self.state.deferred = deferred
        try:
            with attention.over_queries():
                features = self.transformer(features)
        finally:
            self.state.deferred = None
        features["route_embedding"] = deferred.route_embeddings
        if route_only:
            features["sentence_embedding"] = deferred.route_embeddings
            return features
        features = self._pool(features)
        features["route_weights"] = deferred.weights
        return features

    def run_upper(self, deferred: _Deferred, hidden: Tensor) -> Tensor:
        """Route the rows of ``hidden`` (n, tokens, d), then run the deferred layers group by group."""
        if deferred.route_embeddings is None:
            deferred.route_embeddings = _mean_pool(hidden, deferred.attention_mask)
        if deferred.stop_at_branch:
            deferred.hidden = hidden
            return hidden
        deferred.weights = deferred.decide(deferred.route_embeddings)
        groups = self._groups(deferred.weights, hidden.shape[1])
        if len(groups) == 1 and not isinstance(groups[0][1], SlicedPlan):
            return self._run_group(deferred, hidden, None, groups[0][1])
        output = torch.empty_like(hidden)
        for rows, plan in groups:
            output[rows] = self._run_group(deferred, hidden[rows], rows, plan)
        return output

    def _run_group(self, deferred: _Deferred, hidden: Tensor, rows: Tensor | None, plan: Plan | None) -> Tensor:
        n_rows = len(deferred.attention_mask)
        with self.selection.use(plan):
            for layer, args, kwargs in deferred.calls:
                args = tuple(_take_rows(value, rows, n_rows) for value in args)
                kwargs = {key: _take_rows(value, rows, n_rows) for key, value in kwargs.items()}
                output = type(layer).forward(layer, hidden, *args, **kwargs)
                hidden = output[0] if isinstance(output, tuple) else output
        return hidden

    def _groups(self, weights: Tensor, tokens: int) -> list[tuple[Tensor, Plan | None]]:
        """Split rows of some tokens: base, merged and large groups with weights of their own, the rest together."""
        groups: list[tuple[Tensor, Plan | None]] = []
        shares = weights.cpu().numpy()  # small: a dozen steps on it cost less than one layer's product
        columns, rows_at = _leading(shares), partial(torch.as_tensor, device=weights.device)
        first = int(columns[0]) if len(columns) else 0
        if first not in (-1, 1) and (columns == first).all():
            return [(rows_at(np.arange(len(columns))), self._merged_plan(first))]
        gathered: list[NDArray[Any]] = []
        small: dict[int, NDArray[Any]] = {}
        for column in np.unique(columns).tolist():
            rows = np.flatnonzero(columns == column)
            if column == 1:
                for share in np.unique(shares[rows, 1]).tolist():
                    groups.append((rows_at(rows[shares[rows, 1] == share]), self._merged_plan(1, share)))
            elif column == 0 or (column > 1 and len(rows) * tokens >= MIN_MERGED_TOKENS):
                groups.append((rows_at(rows), self._merged_plan(column)))
            elif column > 1:
                small[column] = rows
            else:
                gathered.append(rows)
        if small and MIN_SLICE_ROWS * len(small) <= sum(map(len, small.values())):
            adapters = tuple(self.experts[self.candidates[column]] for column in small)
            plan = SlicedPlan(adapters, tuple(map(len, small.values())))
            groups.append((rows_at(np.concatenate(list(small.values()))), plan))
        else:
            gathered += small.values()
        if gathered:
            rows = np.sort(np.concatenate(gathered))  # a single group is run in the batch's own order
            mixed = weights[rows_at(rows)]
            blended = self.blended_plan(mixed[:, 2:] + mixed[:, 1:2] / max(1, len(self.experts)))
            groups.append((rows_at(rows), blended))
        return groups

    def _merged_plan(self, column: int, share: float = 1.0) -> Plan | None:
        if column == 0 or not self.experts:
            return None
        return self._remembered(tuple(self.experts) if column == 1 else (self.candidates[column],), share)

    def _remembered(self, names: tuple[str, ...], share: float) -> MergedPlan:
        """The plan of these experts, with its weights if it was used lately; the oldest is forgotten."""
        key = names, share
        with _MERGING:
            adapters = tuple(self.experts[name] for name in names)
            plan = self._merged.setdefault(key, MergedPlan(adapters, share))
            self._merged.move_to_end(key)
            if len(self._merged) > MERGED_CACHE_SIZE:
                self._merged.popitem(last=False)
        return plan

    # -- identity and storage ----------------------------------------------------------------------

    def tokenized(self, texts: list[str], prompt: str | None = None) -> dict[str, Any]:
        """Tokenise onto the model's device."""
        device = next(self.transformer.parameters()).device
        features = self.preprocess(texts, prompt, processing_kwargs=_NUMPY)
        return {k: torch.from_numpy(v).to(device) if isinstance(v, np.ndarray) else v for k, v in features.items()}

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """How many tokens are read of each text, apart from a prompt."""
        if not texts:
            return []
        with _TOKENISING:
            beginnings = [self._beginning(text) for text in texts]
            read = self.tokenizer(beginnings, truncation=True, max_length=self.max_seq_length)["input_ids"]
        return [len(ids) for ids in read]

    def _beginning(self, text: str) -> str:
        """As much of a long text as its tokens are read of: a tokeniser would go through ten megabytes for 512 tokens.

        Words are tokenised one by one, so a text cut between two words has the tokens of the whole, as far as it goes.
        """
        length = self.max_seq_length or len(text)
        end = BEGINNING * length
        while end < len(text):
            space = _SPACE.search(text, end, 2 * end)
            part = text[: space.start() if space else 2 * end]
            if len(self.tokenizer(part, truncation=True, max_length=length)["input_ids"]) == length:
                return part
            end *= 2
        return text

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the base's vectors: weights, tokeniser, pooling."""
        if self._fingerprint is None:
            digest = hashlib.blake2b(digest_size=16)
            for name, tensor in sorted(self.state_dict().items()):
                digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
            for module in self.head:
                digest.update(f"{type(module).__name__}{module.get_config_dict()}".encode())  # type: ignore[operator]
            ids = self.transformer.preprocess(list(_PROBES))["input_ids"].tolist()
            digest.update(json.dumps([ids, self.max_seq_length]).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    @property
    def max_seq_length(self) -> int | None:
        """Longest input in tokens; the rest of a text is cut off."""
        length: int | None = self.transformer.max_seq_length
        return length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.transformer.max_seq_length = value
        self._fingerprint = None

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]
        """The base's tokeniser."""
        return self.transformer.tokenizer

    @property
    def dimension(self) -> int:
        """Length of the sentence embeddings."""
        for module in reversed(self.head):
            for attribute in ("out_features", "pooling_output_dimension"):
                if hasattr(module, attribute):
                    return int(getattr(module, attribute))
        raise ModelError("The base has no pooling module.")

    @property
    def route_dimension(self) -> int:
        """Length of the route embeddings."""
        hidden: int = self.transformer.model.config.hidden_size
        return self.dimension if self.route_layer == self.num_layers else hidden

    def get_embedding_dimension(self) -> int:
        """Sentence Transformers' name for :attr:`dimension`."""
        return self.dimension

    def get_config_dict(self) -> dict[str, Any]:
        """What :mod:`routerretriever.storage` writes besides weights."""
        return {"branch_layer": self.branch_layer, "route_layer": self.route_layer}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the base at the root, and the experts and pilots beside it."""
        write_encoder(self, output_path)

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> Self:  # type: ignore[override]
        """Read what :meth:`save` wrote; see :func:`routerretriever.storage.read_encoder`."""
        encoder = read_encoder(cls, model_name_or_path, **kwargs)
        assert isinstance(encoder, cls)
        return encoder


def _leading(shares: NDArray[Any]) -> NDArray[Any]:
    """The column that has a row (n, 2 + E) to itself, or -1 where several experts or a part of one take part."""
    alone = ~(shares[:, 2:] > 0).any(axis=1)
    whole = np.where(shares.max(axis=1) >= 1.0, shares.argmax(axis=1), -1)
    return np.where(alone, shares[:, 1] > 0, whole)


def _set_submodule(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(parent), attribute, new)


def _blocks(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start : start + _BLOCK] for start in range(0, len(names), _BLOCK)]


def _mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of each row's tokens at unit length, which the sum has too."""
    return F.normalize(torch.bmm(mask[:, None].float(), hidden.float())[:, 0], dim=-1)


def _pad_like(hidden: list[Tensor], mask: Tensor) -> Tensor:
    padded = hidden[0].new_zeros(*mask.shape, hidden[0].shape[-1])
    padded[mask.bool()] = torch.cat(hidden)
    return padded


def _take_rows(value: Any, rows: Tensor | None, n_rows: int) -> Any:
    """Pick the group's rows from an argument that has one entry per row of the batch."""
    if rows is None:
        return value
    if isinstance(value, tuple):
        return tuple(_take_rows(item, rows, n_rows) for item in value)
    if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[0] == n_rows and n_rows > 1:
        return value[rows]
    return value
