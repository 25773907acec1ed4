"""What any model does with its experts and pilots, whatever computes its vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace as replace_fields
from typing import Protocol

from routerretriever.data.text import check_queries
from routerretriever.expert_state import ExpertState
from routerretriever.kernels.vectors import Vectors
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.expert_info import ExpertInfo
from routerretriever.routing.explain import Route, explain_routes
from routerretriever.routing.pilot_library import PilotLibrary


class WithExperts(Protocol):
    """What :class:`ExpertMethods` needs of a model.

    Attributes:
        state: experts, infos and policy; assigning another swaps all three.
    """

    state: ExpertState

    def check_not_silent(self, experts: Mapping[str, Adapter], where: str = "") -> None:
        """Refuse experts that change no query vector."""

    def route_embeddings(self, queries: Sequence[str]) -> Vectors:
        """Return what the router reads (n, d)."""


class ExpertMethods:
    """Adds, removes and routes among experts."""

    @property
    def experts(self: WithExperts) -> dict[str, ExpertInfo]:
        """Expert name → what is known of it, in the order they were added."""
        return dict(self.state.infos)

    def add_expert(
        self: WithExperts,
        name: str,
        adapter: Adapter,
        info: ExpertInfo | None = None,
        *,
        replace: bool = False,
    ) -> None:
        """Add an expert; the library gets a column that is not measured yet.

        Args:
            name: of the expert.
            adapter: its LoRA factors.
            info: what is known of it.
            replace: take the place of an expert of the same name, whose gains are forgotten.

        Raises:
            ExpertError: the name is taken or cannot be used.
            SilentExpertError: the adapter changes no query vector. The model is as before.
        """
        changed = self.state.with_expert(name, adapter, info, replacing=replace)
        self.check_not_silent({name: adapter})
        self.state = changed

    def remove_expert(self: WithExperts, name: str) -> None:
        """Remove an expert and its column of gains.

        Raises:
            ExpertError: there is no such expert.
        """
        self.state = self.state.without_expert(name)

    def rename_expert(self: WithExperts, old: str, new: str) -> None:
        """Give an expert another name; its weights, gains and place stay as they are.

        Raises:
            ExpertError: there is no such expert, or the new name is taken or cannot be used.
        """
        self.state = self.state.with_renamed(old, new)

    @property
    def library(self: WithExperts) -> PilotLibrary | None:
        """The pilot library, if it was built."""
        return self.state.library

    def set_policy(
        self: WithExperts,
        *,
        margin: float | None = None,
        mix: int | None = None,
        mix_temperature: float | None = None,
        partial_weight: float | None = None,
        fallback_weight: float | None = None,
        abstain: bool | None = None,
    ) -> None:
        """Change how the predicted gains become a choice; ``None`` keeps the present value.

        Args:
            margin: an expert is chosen only if its predicted gain exceeds this (nDCG@10, 0 to 1).
            mix: number of candidates whose LoRA deltas are averaged; 1 chooses a single one.
            mix_temperature: softmax temperature of the mixing weights, in nDCG@10.
            partial_weight: weight of the expert for a query between the reject and the trust threshold.
            fallback_weight: weight of the merged expert for a query below the reject threshold.
            abstain: use the two thresholds; otherwise every query counts as in domain.

        Raises:
            LibraryError: there is no library, a value is out of its range, or the router ignores the setting.
        """
        given = {
            "margin": margin,
            "mix": mix,
            "mix_temperature": mix_temperature,
            "partial_weight": partial_weight,
            "fallback_weight": fallback_weight,
            "abstain": abstain,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        self.state = self.state.with_policy(self.state.required_policy().with_settings(changes))

    def set_gains(self: WithExperts, name: str, gains: Mapping[str, float | Sequence[float]]) -> None:
        """Fill an expert's column of the pilot library with gains that were measured elsewhere.

        Args:
            name: of the expert.
            gains: collection → mean gain (nDCG@10 over base), or one gain for each of its measured pilots.

        Raises:
            ExpertError: there is no such expert; base and merged have no gains of their own.
            LibraryError: there is no library, or the gains do not fit it.
        """
        adapter = self.state.expert(name)
        filled = self.state.required_policy().library.with_gains(name, gains)
        versions = {**filled.versions, name: adapter.fingerprint}
        self.state = self.state.with_library(replace_fields(filled, versions=versions))

    def set_library(self: WithExperts, library: PilotLibrary) -> None:
        """Route by another pilot library with the rule that is in force.

        Raises:
            LibraryError: the model has no library yet, so there is no rule; see
                :meth:`build_library`.
        """
        self.state.required_policy()
        self.state = self.state.with_library(library)

    def check_candidate(self: WithExperts, name: str) -> None:
        """Refuse a name that is neither ``base``, ``merged`` nor an expert.

        Raises:
            ExpertError: there is no such candidate.
        """
        self.state.column(name)

    def route(self: WithExperts, queries: str | Sequence[str], *, n_pilots: int = 5) -> list[Route]:
        """Return where each query goes and why, without encoding it to the end.

        Raises:
            LibraryError: the pilot library has not been built.
            QueryError: a query is empty.
        """
        texts = [queries] if isinstance(queries, str) else list(queries)
        check_queries(texts)
        policy = self.state.required_policy()
        if not texts:
            return []
        return explain_routes(policy, texts, self.route_embeddings(texts), n_pilots)
