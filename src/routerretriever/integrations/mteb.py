"""MTEB: ``mteb.evaluate(model, tasks)`` takes a model as it is; this says what it was trained on.

Without it MTEB knows no training data, and cannot say on which tasks a result is zero-shot.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from routerretriever.errors import MissingExtraError
from routerretriever.expert_state import ExpertState
from routerretriever.model import RouterRetriever
from routerretriever.routing.candidates import BASE

try:
    import mteb
    from mteb.models import ModelMeta, SentenceTransformerEncoderWrapper
except ImportError as error:
    raise MissingExtraError("mteb", "mteb") from error


def model_meta(
    model: RouterRetriever,
    name: str | None = None,
    *,
    revision: str | None = None,
    datasets: Mapping[str, Iterable[str]] | None = None,
) -> ModelMeta:
    """Return MTEB's description of a model; ``mteb.evaluate`` takes it in the model's place.

    Its training data is what every expert was trained on, what the router's pilots come from, and what MTEB knows of
    the base. Where one of these is unknown (an imported expert, a base that MTEB does not list), all of it is, and
    MTEB makes no claim about zero-shot; ``datasets`` can fill the gap.

    Args:
        model: its own loader, so that no second copy is loaded.
        name: ``ORGANISATION/NAME``, under which results are filed; default from the base's name.
        revision: of this model; default a hash of everything that decides query vectors, so that results of before
            and after a change are kept apart.
        datasets: names of MTEB tasks that an expert, or ``base``, was trained on, in place of what is known.

    Raises:
        ExpertError: ``datasets`` names an expert that is not there.
    """
    for candidate in datasets or ():
        model.state.column(candidate)
    # None, because MTEB deprecates the option whose default it gives.
    described = ModelMeta.from_sentence_transformer_model(model, fetch_from_hf=False, fill_missing=None)  # type: ignore[arg-type]
    own = f"routerretriever/{model.encoder.base.id.rpartition('/')[2]}-routed"

    # A function, not a partial: MTEB copies the description with all it holds, which must not include the model.
    def load(name: str, revision: str | None = None, **options: Any) -> SentenceTransformerEncoderWrapper:
        return SentenceTransformerEncoderWrapper(model)

    return described.model_copy(
        update={
            "name": name or own,
            "revision": revision or _revision(model),
            "loader": load,
            "n_parameters": sum(
                tensor.numel() for tensor in (*model.parameters(), *_expert_tensors(model.state))
            ),
            "open_weights": True,
            "use_instructions": any(model.prompts.values()),
            "adapted_from": model.encoder.base.id,
            "training_datasets": training_datasets(model, datasets or {}),
        }
    )


def _expert_tensors(state: ExpertState) -> list[Tensor]:
    return [tensor for adapter in state.experts.values() for tensor in adapter.parameters()]


def _revision(model: RouterRetriever) -> str:
    """Return a hash of base, experts and library: MTEB reuses results of the same name and revision."""
    state = model.state
    policy = state.policy
    digest = hashlib.blake2b(model.identity.encode(), digest_size=8)
    scalings = [adapter.scaling for adapter in state.experts.values()]
    settings: dict[str, Any] | None = None
    if policy is not None:
        settings = policy.settings()
    content = [list(state.experts), scalings, settings]
    digest.update(json.dumps(content, sort_keys=True, default=str).encode())
    for tensor in _expert_tensors(state):
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    if policy is not None:
        for array in (policy.library.centroids, policy.library.gains):
            digest.update(array.tobytes())
    return digest.hexdigest()


def training_datasets(model: RouterRetriever, known: Mapping[str, Iterable[str]]) -> set[str] | None:
    """Return the MTEB tasks that any part of this model was trained on; ``None`` if that is unknown."""
    base: Iterable[str] | None = known.get(BASE)
    if base is None:
        base = _of_base(model.encoder.base.id)
    if base is None:
        return None
    names = set(base)
    state = model.state
    for expert, info in state.infos.items():
        if expert in known:
            names |= set(known[expert])
        elif info.collection:
            # Synthetic queries are made from the documents of their source, so its tasks are not zero-shot either.
            names |= _of_collections([*info.collection.split(", "), *info.source.split(", ")])
        else:
            return None
    if state.library is not None:
        names |= _of_collections((*state.library.collections(), *state.library.generated.values()))
    return names


def _of_base(name: str) -> set[str] | None:
    try:
        return mteb.get_model_meta(name, fetch_from_hf=False).get_training_datasets()
    except (KeyError, ValueError):  # MTEB does not list it
        return None


def _of_collections(names: Iterable[str]) -> set[str]:
    """Return the tasks of MTEB that are these collections; one that is none of them keeps its name."""
    tasks = _tasks()
    found: set[str] = set()
    for name in filter(None, names):
        parts = [_folded(part) for part in re.split(r"[/:]", name)]
        found |= set[str]().union(*(tasks.get(part, ()) for part in parts)) or {name}
    return found


@cache
def _tasks() -> dict[str, set[str]]:
    """Return the tasks by their own names and those of their data sets."""
    known: dict[str, set[str]] = {}
    for task in mteb.get_tasks(exclude_superseded=False):
        for name in (task.metadata.name, task.metadata.dataset["path"].rpartition("/")[2]):
            known.setdefault(_folded(name), set()).add(task.metadata.name)
    return known


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
