"""The experts of a model at one moment: their adapters, what is known of them, and the routing among them.

A state never changes. A change makes another state, which takes the place of the first in one
assignment, so that anyone who holds a state has adapters, infos and policy that belong together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from routerretriever.errors import ExpertError, LibraryError
from routerretriever.lora.adapter import Adapter, Kind
from routerretriever.lora.expert_info import ExpertInfo, check_expert_name
from routerretriever.routing.candidates import BASE, MERGED
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.scope import RoutingScope, scoped_policy


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertState:
    """Experts, infos and routing policy, all of one moment.

    Attributes:
        experts: name → adapter, in the order in which they were added.
        infos: name → what is known of the expert; the same names in the same order.
        policy: how queries are routed; ``None`` while there is no pilot library.
    """

    experts: Mapping[str, Adapter] = field(default_factory=dict)
    infos: Mapping[str, ExpertInfo] = field(default_factory=dict)
    policy: RoutingPolicy | None = None
    _scoped: dict[RoutingScope, RoutingPolicy | None] = field(default_factory=dict, init=False)
    _places: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        # Every batch asks for the places of all candidates, so they are looked up and not searched for.
        places = {name: place for place, name in enumerate(self.candidates)}
        object.__setattr__(self, "_places", places)

    @property
    def candidates(self) -> tuple[str, ...]:
        """What a query may be encoded with: base, merged, and each expert, in this order."""
        return (BASE, MERGED, *self.experts)

    def candidates_in(self, scope: RoutingScope | None) -> tuple[str, ...]:
        """Return the candidates of a scope; ``None`` is the whole model."""
        if scope is None or scope.experts is None:
            return self.candidates
        return (BASE, *scope.allowed(tuple(self.experts)))

    def policy_in(self, scope: RoutingScope | None) -> RoutingPolicy | None:
        """Return how queries of a scope are routed; ``None`` where there are no pilots.

        A scope's own pilots are copied when it is first asked for.
        """
        if scope is None or self.policy is None:
            return self.policy
        if scope not in self._scoped:
            self._scoped[scope] = scoped_policy(self.policy, scope)
        return self._scoped[scope]

    @property
    def library(self) -> PilotLibrary | None:
        """The pilot library, or ``None`` if it has not been built."""
        return None if self.policy is None else self.policy.library

    @property
    def versions(self) -> dict[str, str]:
        """Expert → fingerprint of its adapter."""
        return {name: adapter.fingerprint for name, adapter in self.experts.items()}

    @property
    def changes_layers(self) -> bool:
        """Whether any expert changes layers of the base, and not the finished vector alone."""
        return any(adapter.kind != Kind.MAP for adapter in self.experts.values())

    def column(self, candidate: str) -> int:
        """Return the place of a candidate among :attr:`candidates`.

        Raises:
            ExpertError: there is no such candidate.
        """
        if candidate not in self._places:
            known = ", ".join(self.candidates)
            raise ExpertError(f"There is no expert '{candidate}' in this model. Choose one of: {known}.")
        return self._places[candidate]

    def expert(self, name: str) -> Adapter:
        """Return the adapter of an expert.

        Raises:
            ExpertError: there is no such expert; base and merged are none.
        """
        if name not in self.experts:
            known = ", ".join(self.experts) or "none"
            raise ExpertError(f"There is no expert '{name}' in this model. Its experts: {known}.")
        return self.experts[name]

    def required_policy(self, scope: RoutingScope | None = None) -> RoutingPolicy:
        """Return the policy of a model, or of a scope in it, that must have one.

        Raises:
            LibraryError: the pilot library has not been built.
        """
        policy = self.policy_in(scope)
        if policy is None:
            raise no_library()
        return policy

    # -- other states ------------------------------------------------------------------------------

    def with_expert(
        self,
        name: str,
        adapter: Adapter,
        info: ExpertInfo | None = None,
        *,
        replacing: bool = False,
    ) -> ExpertState:
        """Return the state with one more expert, whose gains are not measured yet.

        Args:
            name: of the expert.
            adapter: its LoRA factors.
            info: what is known of it.
            replacing: take the place of an expert of the same name, whose gains are forgotten.

        Raises:
            ExpertError: the name cannot be used, or it is taken.
        """
        if check_expert_name(name) in self.experts and not replacing:
            raise ExpertError(f"The model already has an expert '{name}'. Remove it first.")
        library = self.library
        if library is not None and name in library.experts:
            library = library.with_experts(tuple(e for e in library.experts if e != name))
        grown = replace(
            self,
            experts={**self.experts, name: adapter},
            infos={**self.infos, name: info or ExpertInfo()},
        )
        return grown.with_library(library)

    def without_expert(self, name: str) -> ExpertState:
        """Return the state without an expert and its column of gains.

        Raises:
            ExpertError: there is no such expert.
        """
        self.expert(name)
        rest = replace(
            self,
            experts={key: value for key, value in self.experts.items() if key != name},
            infos={key: value for key, value in self.infos.items() if key != name},
        )
        return rest.with_library(self.library if rest.experts else None)

    def with_renamed(self, old: str, new: str) -> ExpertState:
        """Return the state with another name for an expert; its weights, gains and place stay.

        Raises:
            ExpertError: there is no such expert, or the new name is taken or cannot be used.
        """
        self.expert(old)
        if check_expert_name(new) in self.experts:
            raise ExpertError(
                f"The model already has an expert '{new}'. Choose another name, or remove it first."
            )
        library = self.library
        renamed = replace(
            self,
            experts={new if key == old else key: value for key, value in self.experts.items()},
            infos={new if key == old else key: value for key, value in self.infos.items()},
        )
        return renamed.with_library(None if library is None else library.renamed(old, new))

    def with_info(self, name: str, info: ExpertInfo) -> ExpertState:
        """Return the state with something else known of an expert.

        Raises:
            ExpertError: there is no such expert.
        """
        self.expert(name)
        return replace(self, infos={**self.infos, name: info})

    def with_library(self, library: PilotLibrary | None) -> ExpertState:
        """Return the state that routes by another library with the rule in force.

        The library gets a column for each expert; without library or rule nothing is routed.
        """
        if library is None or self.policy is None:
            return replace(self, policy=None)
        return replace(self, policy=self.policy.over(library.with_experts(tuple(self.experts))))

    def with_policy(self, policy: RoutingPolicy | None) -> ExpertState:
        """Return the state with another policy."""
        return replace(self, policy=policy)


def no_library() -> LibraryError:
    """Return the error of a model without pilots."""
    return LibraryError("The model has no pilot library. Build it: routerretriever library MODEL COLLECTION…")
