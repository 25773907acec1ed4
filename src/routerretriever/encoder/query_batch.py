"""Queries encoded up to the branch layer once, so that any number of experts can finish them.

The layers below the branch layer are the base's for every expert. Training, the pilot library and the
experiment suite run the same queries under many experts, and pay for those layers a single time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from routerretriever.kernels.exact_search import Vectors

if TYPE_CHECKING:
    from routerretriever.encoder.routed_encoder import RoutedEncoder
    from routerretriever.lora.layers import Plan

HIDDEN_BUDGET = 2**30
"""Bytes of cached hidden states; beyond it they are computed every time."""
BATCH = 64


@dataclass(frozen=True, slots=True)
class EncodedQueries:
    """Tokenised queries, unpadded, with their hidden states at the branch layer where they fit.

    Attributes:
        encoder: made the states, and finishes them.
        features: one dictionary of (tokens,) tensors a query.
        hidden: (tokens, d) a query, or ``None`` beyond the budget.
    """

    encoder: RoutedEncoder
    features: list[dict[str, Tensor]]
    hidden: list[Tensor] | None

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def of(cls, encoder: RoutedEncoder, texts: Sequence[str], prompt: str | None, budget: int = HIDDEN_BUDGET) -> Self:
        """Tokenise queries and run the frozen lower layers; states beyond ``budget`` bytes are not kept."""
        features: list[dict[str, Tensor]] = [{}] * len(texts)
        hidden: list[Tensor] = [torch.empty(0)] * len(texts)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        spent = 0
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = encoder.tokenized([texts[row] for row in rows], prompt)
            kept = batch["attention_mask"].bool()
            if spent <= budget:
                with torch.no_grad():
                    states = encoder.hidden_at_branch(batch)
                spent += sum(state.numel() * state.element_size() for state in states)
                for row, state in zip(rows, states, strict=True):
                    hidden[row] = state.clone()
            tensors = {key: value for key, value in batch.items() if isinstance(value, Tensor) and value.ndim == 2}
            for number, row in enumerate(rows):
                # Padding is dropped; pad_sequence's zeros stand under a zero attention mask later.
                features[row] = {key: value[number][kept[number]] for key, value in tensors.items()}
        return cls(encoder, features, hidden if spent <= budget else None)

    def route_embeddings(self) -> Vectors:
        """What the router reads of all queries (n, d): unit vectors."""
        if self.encoder.route_layer == self.encoder.num_layers:
            found = torch.from_numpy(self.vectors(None))
        elif self.hidden is not None:
            found = torch.stack([states.float().mean(dim=0) for states in self.hidden]).cpu()
        else:
            batches = [self.encoder.hidden_at_branch(self.batch([row])[0])[0] for row in range(len(self))]
            found = torch.stack([states.float().mean(dim=0) for states in batches]).cpu()
        result: Vectors = F.normalize(found, dim=-1).numpy()
        return result

    def only(self, rows: Sequence[int]) -> Self:
        """Some of the queries, in the given order."""
        hidden = None if self.hidden is None else [self.hidden[row] for row in rows]
        return replace(self, features=[self.features[row] for row in rows], hidden=hidden)

    def vectors(self, plan: Plan | None) -> Vectors:
        """Sentence embeddings (n, d) of all queries under one plan; ``None`` is the plain base."""
        return self.vectors_by(lambda rows: plan)

    def vectors_by(self, plan_of: Callable[[list[int]], Plan | None]) -> Vectors:
        """The same with a plan for every batch, made from its row numbers."""
        found = torch.empty(len(self), self.encoder.dimension)
        with torch.no_grad():
            for rows in self.batches_by_length(BATCH):
                found[rows] = self.encoder.finish(plan_of(rows), *self.batch(rows)).float().cpu()
        result: Vectors = found.numpy()
        return result

    def batch(self, rows: Sequence[int]) -> tuple[dict[str, Any], list[Tensor] | None]:
        """Padded features and the hidden states of some rows."""
        features = {
            key: torch.nn.utils.rnn.pad_sequence([self.features[row][key] for row in rows], batch_first=True)
            for key in self.features[0]
        }
        return features, None if self.hidden is None else [self.hidden[row] for row in rows]

    def length(self, row: int) -> int:
        """Tokens of one query."""
        return len(self.features[row]["input_ids"])

    def batches_by_length(self, size: int) -> Iterator[list[int]]:
        """Row numbers in batches of similar length."""
        order = sorted(range(len(self)), key=self.length)
        for start in range(0, len(order), size):
            yield order[start : start + size]
