"""Which experts answer: all of the model's, but for one that only runs in the shadow of the others."""

from __future__ import annotations

from routerretriever.encoder.served_model import ServedModel
from routerretriever.expert_state import ExpertState


class Answering:
    """The state with which clients are answered.

    Args:
        model: whose experts come and go.
        shadow: name of an expert that does not answer; ``None`` for none.
    """

    def __init__(self, model: ServedModel, shadow: str | None = None) -> None:
        self._model = model
        self._shadow = shadow
        self._made = (model.state, self._without(model.state))

    @property
    def state(self) -> ExpertState:
        """Experts, infos and policy of this moment, as if the other expert had never been added."""
        whole, answering = self._made
        present = self._model.state
        if whole is not present:
            answering = self._without(present)
            self._made = (present, answering)
        return answering

    def _without(self, state: ExpertState) -> ExpertState:
        if self._shadow is None or self._shadow not in state.experts:
            return state
        return state.without_expert(self._shadow)
