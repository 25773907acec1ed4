"""Queries encoded up to the branch layer once, so that any number of experts can finish them.

The layers below the branch layer are the base's for every expert. Training, the pilot library and the
experiment suite run the same queries under many experts, and pay for those layers a single time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from routerretriever.encoder.finished_queries import FinishedQueries
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.kernels.vectors import Vectors
from routerretriever.lora.layers import Plan

HIDDEN_BUDGET = 2**30
"""Bytes of hidden states that are kept; beyond it they are computed every time."""
BATCH = 64
"""Queries encoded at a time."""


def prepare_queries(
    encoder: RoutedEncoder, texts: Sequence[str], prompt: str | None, budget: int = HIDDEN_BUDGET
) -> PreparedQueries:
    """Run what is the same for every expert: the lower layers, or all of a base that cannot be opened.

    Args:
        encoder: base and experts.
        texts: the queries.
        prompt: put before each query.
        budget: bytes of hidden states; if they take more, none are kept.
    """
    if not encoder.is_opened:
        return FinishedQueries.of(encoder, texts, prompt)
    return EncodedQueries.of(encoder, texts, prompt, budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedQueries:
    """Tokenised queries without padding, with their hidden states at the branch layer if they fit.

    Attributes:
        encoder: made the states, and finishes them.
        features: a dictionary of (tokens,) tensors for each query.
        prompt_length: tokens of the prompt, for a base that leaves them out of its pooling;
            ``None`` without a prompt.
        hidden: (tokens, d) for each query, or ``None`` beyond the budget.
    """

    encoder: RoutedEncoder
    features: list[dict[str, Tensor]]
    prompt_length: int | None = None
    hidden: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def of(
        cls,
        encoder: RoutedEncoder,
        texts: Sequence[str],
        prompt: str | None,
        budget: int = HIDDEN_BUDGET,
    ) -> Self:
        """Tokenise queries and run the frozen lower layers.

        Args:
            encoder: base and experts.
            texts: the queries.
            prompt: put before each query.
            budget: bytes of hidden states; if they take more, none are kept.
        """
        features: list[dict[str, Tensor]] = [{}] * len(texts)
        hidden: list[Tensor] = [torch.empty(0)] * len(texts)
        prompt_length: int | None = None
        spent = 0

        # Texts of similar length share a batch, which saves padding.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = encoder.tokenized_queries([texts[row] for row in rows], prompt)
            prompt_length = batch.get("prompt_length")
            if spent <= budget:
                with torch.no_grad():
                    states = encoder.hidden_at_branch(batch)
                spent += sum(state.numel() * state.element_size() for state in states)
                for row, state in zip(rows, states, strict=True):
                    hidden[row] = state.clone()
            for row, unpadded in zip(rows, _without_padding(batch), strict=True):
                features[row] = unpadded

        kept = hidden if spent <= budget else None
        return cls(encoder=encoder, features=features, prompt_length=prompt_length, hidden=kept)

    def route_embeddings(self) -> Vectors:
        """Return what the router reads of all queries (n, d): unit vectors."""
        if self.encoder.route_layer == self.encoder.num_layers:
            found = torch.from_numpy(self.vectors(None))
        else:
            states = self.hidden
            if states is None:
                states = [self.encoder.hidden_at_branch(self.batch([row])[0])[0] for row in range(len(self))]
            read = self.encoder.layered.read
            found = torch.cat([read(state[None], state.new_ones(1, len(state))) for state in states]).cpu()
        result: Vectors = F.normalize(found, dim=-1).numpy()
        return result

    def only(self, rows: Sequence[int]) -> Self:
        """Return some of the queries, in the given order."""
        features = [self.features[row] for row in rows]
        return replace(self, features=features, hidden=self._hidden_of(rows))

    def vectors(self, plan: Plan | None) -> Vectors:
        """Return sentence embeddings (n, d) of all queries under one plan; ``None`` is the plain base."""
        return self.vectors_by(lambda rows: plan)

    def vectors_by(self, plan_of: Callable[[list[int]], Plan | None]) -> Vectors:
        """Return the same with a plan for every batch, made from its row numbers."""
        found = torch.empty(len(self), self.encoder.dimension)
        with torch.no_grad():
            for rows in self.batches_by_length(BATCH):
                found[rows] = self.encoder.finish(plan_of(rows), *self.batch(rows)).float().cpu()
        result: Vectors = found.numpy()
        return result

    def vectors_of(self, plan: Plan | None, rows: Sequence[int]) -> Tensor:
        """Return those of some queries, with gradients for the factors of the plan."""
        return self.encoder.finish(plan, *self.batch(rows)).float()

    def finished(self, plan: Plan | None) -> FinishedQueries:
        """Return the queries encoded to the end under a plan."""
        vectors = torch.from_numpy(self.vectors(plan)).to(self.encoder.device)
        return FinishedQueries(encoder=self.encoder, unmapped=vectors)

    def batch(self, rows: Sequence[int]) -> tuple[dict[str, Any], list[Tensor] | None]:
        """Return padded features and the hidden states of some rows."""
        features: dict[str, Any] = {}
        for key in self.features[0]:
            unpadded = [self.features[row][key] for row in rows]
            features[key] = pad_sequence(unpadded, batch_first=True)
        if self.prompt_length is not None:
            features["prompt_length"] = self.prompt_length
        return features, self._hidden_of(rows)

    def _hidden_of(self, rows: Sequence[int]) -> list[Tensor] | None:
        if self.hidden is None:
            return None
        return [self.hidden[row] for row in rows]

    def length(self, row: int) -> int:
        """Return the number of tokens of one query."""
        return len(self.features[row]["input_ids"])

    def batches_by_length(self, size: int) -> Iterator[list[int]]:
        """Yield row numbers in batches of similar length."""
        order = sorted(range(len(self)), key=self.length)
        for start in range(0, len(order), size):
            yield order[start : start + size]


PreparedQueries = EncodedQueries | FinishedQueries
"""Queries that any number of experts can finish."""


def _without_padding(batch: dict[str, Any]) -> list[dict[str, Tensor]]:
    """Return the features of each row without its padding.

    ``pad_sequence`` pads with zeros later; the attention mask is zero there.
    """
    kept = batch["attention_mask"].bool()
    rows: list[dict[str, Tensor]] = [{} for _ in kept]
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.ndim == 2:
            for row, mask in enumerate(kept):
                rows[row][key] = value[row][mask]
    return rows
