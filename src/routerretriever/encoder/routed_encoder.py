"""RoutedEncoder: one forward pass in which every row of a batch may have its own expert.

The layers below the branch layer are the base's and shared. Entering the branch layer, the pooled
hidden state of each row (the route embedding) goes to the routing policy, which answers with a
weight for every candidate. The layers above then run once for each group of rows that can be treated
alike. Where no expert changes layers, the finished vector can be the route embedding without another
pass: only the maps come after it. Documents, and queries pinned to the base, run through the untouched
base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from routerretriever.encoder.adapted_encoder import AdaptedEncoder
from routerretriever.encoder.base_files import load_base_modules, save_base_modules
from routerretriever.encoder.document_fingerprint import pair_fingerprint
from routerretriever.encoder.layered_pass import decided
from routerretriever.encoder.pass_state import DeferredLayers, RouteDecision
from routerretriever.errors import ExpertError, ModelError
from routerretriever.expert_state import ExpertState
from routerretriever.kernels import attention
from routerretriever.kernels.vectors import Vectors
from routerretriever.lora.expert_info import BaseInfo
from routerretriever.routing.candidates import BASE, ROUTED
from routerretriever.storage.hub_download import snapshot
from routerretriever.storage.model_folder import (
    DOCUMENTS,
    ModelParts,
    check_fingerprint,
    read_model_info,
    read_state,
    recorded_base,
    write_state,
)


class RoutedEncoder(AdaptedEncoder):
    """A base encoder with experts, and the routed forward pass.

    Attributes:
        base: the base's public name, revision and licence.
        aligned: share of probe texts by which this encoder's queries fit the documents of another one; ``None``
            where it encodes documents, too.
    """

    # Saved models name this class by this path.
    __module__ = "routerretriever.encoder"

    forward_kwargs: ClassVar[set[str]] = {"task", "expert", "route_only"}  # type: ignore[misc]
    save_in_root = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.base = BaseInfo("unknown")
        self.aligned: float | None = None
        self._documents: RoutedEncoder | None = None

    # -- documents of another encoder --------------------------------------------------------------

    def pair_with(self, documents: RoutedEncoder, aligned: float) -> None:
        """Leave the documents to another encoder, whose vectors are in the same space.

        Args:
            documents: encodes them; it has no experts.
            aligned: what :func:`routerretriever.encoder.alignment.check_aligned` measured.
        """
        self._documents, self.aligned = documents, aligned

    @property
    def documents(self) -> RoutedEncoder:
        """What encodes documents: this encoder, or the other one of a pair."""
        return self if self._documents is None else self._documents

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the vectors of queries by the base, and those of documents."""
        own = super().fingerprint
        if self._documents is None:
            return own
        return pair_fingerprint(own, self._documents.fingerprint)

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Tokenise for what encodes the texts: queries if ``task`` is ``"query"``, else documents."""
        encoder = self if task == "query" else self.documents
        return encoder._read(inputs, prompt, task=task, **kwargs)

    # -- the forward pass --------------------------------------------------------------------------

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
            expert: pins ``"base"``, ``"merged"`` or an expert's name; ``"routed"`` or ``None``
                routes.
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
            return self.documents.encode_plainly(features)
        if route_only:
            return self.forward_by(features, None)
        if expert in (None, ROUTED):
            state = self.state
            if state.policy is None:
                return self.encode_plainly(features)
            return self.forward_by(features, state.policy, state)
        return self._pinned(features, str(expert))

    def _pinned(self, features: dict[str, Any], expert: str) -> dict[str, Any]:
        plan = self.pinned_plan(expert)
        if plan is None:
            return self.encode_plainly(features)
        with self.layered.selection.use(plan), attention.over_queries():
            return self.encode_plainly(features)

    def forward_by(
        self,
        features: dict[str, Any],
        decide: RouteDecision | None,
        state: ExpertState | None = None,
    ) -> dict[str, Any]:
        """Encode one batch in which ``decide`` says what encodes each row; see :meth:`forward`.

        Args:
            features: the tokenised batch.
            decide: route embeddings (n, d) → weights (n, 2 + E); ``None`` stops at the branch layer.
            state: the experts that ``decide`` chooses among; default the present ones.
        """
        state = state or self.state
        read: Tensor | None = None
        if self.route_layer == self.num_layers:
            finished = self.encode_plainly(dict(features))
            read = F.normalize(finished["sentence_embedding"].float(), dim=-1)
            if decide is None:
                return {**finished, "route_embedding": read, "sentence_embedding": read}
            if not state.changes_layers:
                return self._mapped(finished, read, decided(decide, read), state)

        deferred = DeferredLayers(
            decide=decide,
            state=state,
            attention_mask=features["attention_mask"],
            route_embeddings=read,
        )
        with self.layered.deferring(deferred):
            features = self.body(features)
        read = deferred.route_embeddings
        assert read is not None
        if decide is None:
            return {**features, "route_embedding": read, "sentence_embedding": read}
        assert deferred.weights is not None
        return self._mapped(self._pool(features), read, deferred.weights, state)

    def _mapped(
        self, features: dict[str, Any], read: Tensor, weights: Vectors, state: ExpertState
    ) -> dict[str, Any]:
        """Return features with finished vectors after the map of each row, and what decided it.

        Args:
            features: with the finished vectors (n, d).
            read: route embeddings (n, d).
            weights: of each candidate for each row (n, 2 + E).
            state: the experts that the columns stand for.
        """
        vectors = features["sentence_embedding"]
        groups = self.layered.map_groups(weights, state, vectors.device)
        return {
            **features,
            "sentence_embedding": self.vector_map.by_groups(vectors, groups),
            "route_embedding": read,
            "route_weights": torch.as_tensor(weights, device=vectors.device),
        }

    @property
    def route_dimension(self) -> int:
        """Length of the route embeddings."""
        if self.route_layer == self.num_layers:
            return self.dimension
        hidden: int = self.body.model.config.hidden_size
        return hidden

    # -- storage -----------------------------------------------------------------------------------

    def get_config_dict(self) -> dict[str, Any]:
        """Return where experts begin and where the router reads."""
        return {"branch_layer": self.branch_layer, "route_layer": self.route_layer}

    def parts(self) -> ModelParts:
        """Return what a model's folder holds besides the base's own files."""
        return ModelParts(
            state=self.state,
            base=self.base,
            fingerprint=self.fingerprint,
            layout=self.get_config_dict(),
            layers=tuple(self.lora_layers),
            documents=None if self._documents is None else self._documents.base,
        )

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the base at the root, and the experts and pilots beside it; not atomic by itself.

        Raises:
            ModelError: ``safe_serialization=False`` is asked for, which is not supported.
        """
        if not kwargs.get("safe_serialization", True):
            raise ModelError("Models are saved as safetensors only. Leave out safe_serialization=False.")
        root = Path(output_path)
        with self.text.own_settings():
            modules = save_base_modules(self.body, self.head, root, opened=self.is_opened)
        if self._documents is not None:
            modules[DOCUMENTS] = self._save_documents(root / DOCUMENTS)
        write_state(root, self.parts(), modules)

    def _save_documents(self, folder: Path) -> dict[str, Any]:
        """Write the encoder of documents, and return its description."""
        other = self.documents
        folder.mkdir()
        with other.text.own_settings():
            modules = save_base_modules(other.body, other.head, folder, opened=other.is_opened)
        about = asdict(other.base) | {"fingerprint": other.fingerprint}
        return {"base": about, "aligned": self.aligned, **other.get_config_dict(), **modules}

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> Self:  # type: ignore[override]
        """Read what :meth:`save` wrote, and check that it belongs together.

        Raises:
            FormatError: a file is missing, damaged, or of a newer format.
            FingerprintError: base, experts and pilots do not belong together.
            SilentExpertError: an expert changes nothing.
        """
        root = snapshot(model_name_or_path, kwargs)
        info = read_model_info(root)
        encoder = cls.load_base(root, info, **kwargs)
        recorded = info["base"]["fingerprint"]
        check_fingerprint(encoder.fingerprint, recorded, f"The base weights in {root}")
        state = read_state(root, info, encoder.lora_layers, encoder.fingerprint)
        encoder.state = state
        encoder.check_not_silent(encoder.state.experts, f" in {root}")
        return encoder

    @classmethod
    def load_base(cls, root: Path, info: Mapping[str, Any], **kwargs: Any) -> Self:
        """Load the base of a saved model without its experts; the caller checks which base it is."""
        kwargs.pop("subfolder", None)
        encoder = cls._load_encoder(root, info, **kwargs)
        other = info.get(DOCUMENTS)
        if other is not None:
            encoder.pair_with(cls._load_encoder(root / DOCUMENTS, other, **kwargs), other["aligned"])
        return encoder

    @classmethod
    def _load_encoder(cls, root: Path, info: Mapping[str, Any], **kwargs: Any) -> Self:
        body, head, opened = load_base_modules(root, info, **kwargs)
        layers = (info["branch_layer"], info["route_layer"]) if opened else ()
        encoder = cls(body, head, *layers, opened=opened)
        encoder.base = recorded_base(info)
        return encoder
