"""A cross-encoder of Sentence Transformers as the last stage of a search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from routerretriever.errors import ModelError
from routerretriever.extras import of_training
from routerretriever.storage.hub_download import read_folder

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

_BATCH = 32
_SCORING = "ForSequenceClassification"


class Reranker:
    """Scores documents for a query by reading both together.

    Use :meth:`load`.
    """

    def __init__(self, model: CrossEncoder, name: str) -> None:
        self._model = model
        self.name = name

    @classmethod
    def load(cls, source: str | Path, *, device: str | None = None) -> Self:
        """Load a cross-encoder.

        Args:
            source: a folder, or ``user/name`` on the hub.
            device: torch device; default the best one present.

        Raises:
            HubError: it is not on the hub, or that cannot be reached.
            ModelError: it is not a cross-encoder with one score.
        """
        folder = read_folder(source)
        if not (folder / "config.json").is_file():
            raise ModelError(f"There is no cross-encoder at {source}: it has no config.json.")
        _check(folder, str(source))
        with of_training():
            from sentence_transformers import CrossEncoder

        return cls(CrossEncoder(str(folder), device=device), str(source))

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return the probability that each document is relevant for its query (n,).

        It is the sigmoid of the model's score, whatever activation the model's files name.

        Args:
            pairs: query and document (n).
        """
        if not pairs:
            return np.empty(0, np.float32)
        from torch import nn  # there is no reranker without it

        scores = self._model.predict(
            list(pairs),
            batch_size=_BATCH,
            show_progress_bar=False,
            activation_fn=nn.Sigmoid(),
            convert_to_numpy=True,
        )
        return np.asarray(scores, np.float32).reshape(len(pairs))


def _check(folder: Path, source: str) -> None:
    """Refuse a model whose scoring head would be random, or that has several scores.

    Raises:
        ModelError: it is such a model.
    """
    with of_training():
        from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise ModelError(f"The cross-encoder at {source} cannot be read: {error}") from error
    names = config.architectures or []
    if not any(name.endswith(_SCORING) for name in names):
        found = ", ".join(names) or "no architecture"
        raise ModelError(
            f"{source} is not a cross-encoder: it is a {found}. "
            "Choose a model made for reranking, such as cross-encoder/ms-marco-MiniLM-L6-v2."
        )
    if config.num_labels != 1:
        raise ModelError(
            f"{source} gives {config.num_labels} scores for a pair, but reranking needs one. "
            "Choose a model made for reranking, such as cross-encoder/ms-marco-MiniLM-L6-v2."
        )
