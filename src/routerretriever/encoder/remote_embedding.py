"""A base on another machine, asked by an OpenAI-compatible API; no vector is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sentence_transformers.base.modules import InputModule

from routerretriever.encoder.embedding_cache import EmbeddingCache
from routerretriever.encoder.remote_requests import EmbeddingRequests
from routerretriever.encoder.silent import PROBES
from routerretriever.errors import FingerprintError, FormatError, ModelError
from routerretriever.kernels.vectors import Vectors
from routerretriever.storage.cache_directory import cache_directory

PREFIX = "openai:"
"""What the name of a remote base begins with."""
DEFAULT_ENDPOINT = "https://api.openai.com/v1"
URL_VARIABLE = "OPENAI_BASE_URL"
SAME = 0.999
"""Probe texts have vectors of at least this cosine while the model behind an endpoint is the same."""
CHECK_EVERY = 3600.0
"""Seconds after which the provider's model is looked at again, if it is asked for anything."""
_INFO, _PROBES = "remote.json", "probes.safetensors"


class RemoteEmbedding(InputModule):
    """The first module of a remote base.

    The vectors of three probe texts are kept with the model: they are part of its fingerprint, and
    show whether the provider has changed the model under its name.

    Attributes:
        model: the provider's name of the model.
        endpoint: the address that ends in /v1.
        probes: vectors of the probe texts (3, d).
    """

    save_in_root = False
    keeps_vectors = True
    """Its vectors are on disk already, so nothing else needs to keep them."""

    probes: torch.Tensor

    def __init__(self, model: str, endpoint: str, probes: Vectors) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.endpoint = model, endpoint
        self.register_buffer("probes", torch.from_numpy(probes))
        self._requests = EmbeddingRequests(endpoint, model)
        self._checked: float | None = None

    @classmethod
    def create(cls, name: str, endpoint: str | None = None) -> Self:
        """Ask an endpoint for the first time.

        Args:
            name: ``openai:MODEL``.
            endpoint: the address that ends in /v1; default ``$OPENAI_BASE_URL``, else OpenAI's own.

        Raises:
            ModelError: the address is none, or the endpoint gives no vectors.
        """
        model = name.removeprefix(PREFIX)
        address = _checked_address(endpoint or os.environ.get(URL_VARIABLE) or DEFAULT_ENDPOINT)
        if not model:
            raise ModelError(f"'{name}' names no model. Give {PREFIX}MODEL.")
        probes = EmbeddingRequests(address, model).vectors(PROBES)

        # Two models of one provider have the same fingerprint in spite of noise in its vectors.
        path = cache_directory() / "remote" / f"{_digest(address, model)}.safetensors"
        known = _read_probes(path)
        if known is not None and known.shape == probes.shape and _least_cosine(known, probes) >= SAME:
            probes = known
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"probes": probes}, path)
        made = cls(model, address, probes)
        made._checked = time.monotonic()
        made._cache.put(PROBES, probes)
        return made

    # -- encoding ----------------------------------------------------------------------------------

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Return the texts after their prompt."""
        return {"texts": [f"{prompt or ''}{text}" for text in inputs]}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Look up the texts, or ask for them; see :meth:`EmbeddingRequests.vectors`.

        Raises:
            ModelError: the endpoint gives no vectors.
            FingerprintError: the provider has changed the model.
            StorageError: the cache cannot be used.
        """
        vectors = self._cache.vectors(features["texts"], lambda texts, done: self._ask(texts))
        return {**features, "sentence_embedding": torch.from_numpy(vectors.copy()).to(self.probes.device)}

    @property
    def _cache(self) -> EmbeddingCache:
        name = _digest(self.model, self.probes.cpu().numpy().tobytes().hex())
        return EmbeddingCache(f"remote-{name}", self.probes.shape[1])

    def _ask(self, texts: Sequence[str]) -> Vectors:
        if self._checked is None or time.monotonic() - self._checked > CHECK_EVERY:
            self.check_provider()
        return self._requests.vectors(texts, self.probes.shape[1], self._cache.put)

    def check_provider(self) -> None:
        """Compare the vectors of the probe texts with those that are kept.

        Raises:
            FingerprintError: they are others.
            ModelError: the endpoint gives no vectors.
        """
        now, kept = self._requests.vectors(PROBES), self.probes.cpu().numpy()
        alike = _least_cosine(kept, now) if kept.shape == now.shape else 0.0
        if alike < SAME:
            raise FingerprintError(
                f"{self.endpoint} has another model under the name '{self.model}' than when this one was made: its "
                f"vectors of the probe texts have {now.shape[1]} numbers and a cosine of {alike:.3f} to the kept "
                f"ones ({kept.shape[1]} numbers; at least {SAME} is expected). Documents and queries would not "
                "match. Ask for the earlier version of the model, or create a new one and encode everything again."
            )
        self._checked = time.monotonic()

    # -- what it is --------------------------------------------------------------------------------

    def get_embedding_dimension(self) -> int:
        """Return the length of the vectors."""
        return self.probes.shape[1]

    def get_config_dict(self) -> dict[str, Any]:
        """Return what decides the vectors besides the probes: an endpoint may move."""
        return {"model": self.model}

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write name, address and probes; no key."""
        info = {"model": self.model, "endpoint": self.endpoint}
        Path(output_path, _INFO).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
        save_file({"probes": self.probes.cpu().numpy()}, Path(output_path, _PROBES))

    @classmethod
    def load(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> Self:
        """Read what :meth:`save` wrote; the endpoint is not asked yet.

        Raises:
            FormatError: a file is missing or damaged.
        """
        folder = Path(model_name_or_path)
        probes = _read_probes(folder / _PROBES)
        try:
            info = json.loads((folder / _INFO).read_text(encoding="utf-8"))
            if probes is None:
                raise ValueError(f"{_PROBES} is missing or damaged")
            return cls(str(info["model"]), _checked_address(str(info["endpoint"])), probes)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{folder} does not describe a remote base ({error}). Restore it.") from error


def _checked_address(url: str) -> str:
    """Return an address without a slash at its end.

    Raises:
        ModelError: it is none, or holds what must not be saved.
    """
    address = url.rstrip("/").removesuffix("/embeddings")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ModelError(
            f"'{url}' is not an endpoint. Give the address that ends in /v1, such as --endpoint http://…/v1"
        )
    if parts.username or parts.password or parts.query:
        raise ModelError(
            f"The address of {parts.hostname} holds a name, a key or a query, and it is saved with the model. Put the "
            "key into OPENAI_API_KEY."
        )
    return address


def _read_probes(path: Path) -> Vectors | None:
    try:
        probes: Vectors = load_file(path)["probes"]
    except (OSError, KeyError, SafetensorError):
        return None
    if probes.ndim != 2 or probes.dtype != np.float32 or not np.isfinite(probes).all():
        return None
    return probes


def _least_cosine(first: Vectors, second: Vectors) -> float:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float((np.einsum("nd,nd->n", first, second) / np.maximum(lengths, 1e-12)).min())


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
