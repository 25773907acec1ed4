"""Read an expert from a folder, a model or the hub, and check that it fits a base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from routerretriever.encoder.protocol import RoutedModel
from routerretriever.errors import ExpertError, FingerprintError
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.expert_files import base_of, load_expert
from routerretriever.lora.expert_info import BaseInfo, ExpertInfo
from routerretriever.lora.fits import check_fits
from routerretriever.storage.hub_download import is_hub_name, read_folder, repository
from routerretriever.storage.model_folder import EXPERTS, MODEL_INFO, read_expert_info, read_model_info


class ExpertsFit(Protocol):
    """A model, as far as it says which experts fit it."""

    @property
    def base(self) -> BaseInfo:
        """The base's public name."""

    @property
    def layer_shapes(self) -> Mapping[str, tuple[int, int]]:
        """Name → shape (out, in) of the weight of each layer that experts may change."""


class NamedExpert(NamedTuple):
    """An expert, what is known of it, and the name that its source gives it."""

    name: str
    adapter: Adapter
    info: ExpertInfo


def read_expert(
    model: RoutedModel, source: str | Path | RoutedModel, *, trust_base: bool = False
) -> NamedExpert:
    """Read an expert that fits a model; the model stays as it is.

    Args:
        model: where the expert is meant to go.
        source: a PEFT folder, as ``experts/NAME`` of any saved model is one; a saved model with
            one expert; ``user/name`` of such on the hub; or a model object with one expert.
        trust_base: accept an expert of another base.

    Raises:
        HubError: the source is not a folder, and not on the hub.
        ExpertError: it cannot be read, does not fit, or is a model with several experts or none.
        FingerprintError: it is part of a model of another base.
    """
    if not isinstance(source, str | Path):
        return _of_model(model, source, trust_base)
    folder = _expert_folder(model, read_folder(source), trust_base)
    adapter = read_adapter(model, folder, trust_base=trust_base)
    return NamedExpert(_name(source, folder), adapter, read_expert_info(folder))


def read_adapter(model: ExpertsFit, folder: Path, *, trust_base: bool = False) -> Adapter:
    """Read an adapter that PEFT wrote, and check that it fits a model's base.

    Args:
        model: its base must be the adapter's.
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        trust_base: accept an adapter whose config names another base.

    Raises:
        ExpertError: the files are missing or damaged, or the adapter belongs to another base.
    """
    named = base_of(folder)
    if not trust_base and Path(named).name != Path(model.base.id).name:
        raise ExpertError(
            f"The adapter in {folder} was trained for the base '{named}', this model's base is "
            f"'{model.base.id}'. If they are the same weights, pass trust_base=True (--trust-base)."
        )
    adapter = load_expert(folder, model.layer_shapes)
    check_fits(adapter, model.layer_shapes, f"The adapter in {folder}")
    return adapter


def _of_model(model: RoutedModel, source: RoutedModel, trust_base: bool) -> NamedExpert:
    state = source.state
    if len(state.experts) != 1:
        names = ", ".join(state.experts) or "none"
        raise ExpertError(
            f"The model has the experts: {names}. Add one of them by itself: "
            "model.add_expert(name, other.state.experts[name], other.experts[name])."
        )
    if not trust_base:
        _check_base(model, source.encoder.fingerprint, "The expert")
    (name,) = state.experts
    return NamedExpert(name, state.experts[name], state.infos[name])


def _expert_folder(model: RoutedModel, folder: Path, trust_base: bool) -> Path:
    """Return the PEFT folder that is meant, which may be that of a saved model's only expert."""
    if (folder / MODEL_INFO).exists():
        names = list(read_model_info(folder)["experts"])
        if len(names) != 1:
            choices = ", ".join(str(folder / EXPERTS / name) for name in names)
            raise ExpertError(
                f"{folder} is a model. Name one expert's folder in it: {choices or 'none, it has no experts'}."
            )
        folder = folder / EXPERTS / names[0]

    resolved = folder.resolve()
    root = resolved.parent.parent
    if not trust_base and resolved.parent.name == EXPERTS and (root / MODEL_INFO).exists():
        _check_base(model, read_model_info(root)["base"]["fingerprint"], f"The expert in {folder}")
    return folder


def _check_base(model: RoutedModel, fingerprint: str, what: str) -> None:
    own = model.encoder.fingerprint
    if fingerprint != own:
        raise FingerprintError(
            f"{what} belongs to a model of another base encoder (fingerprint {fingerprint[:12]}, this "
            f"model's is {own[:12]}). Train it again for this base, or, if the weights are the same, "
            "pass trust_base=True (--trust-base)."
        )


def _name(source: str | Path, folder: Path) -> str:
    if folder.parent.name == EXPERTS:
        return folder.name
    # A snapshot from the hub has no name of its own.
    return Path(repository(str(source))[0]).name if is_hub_name(source) else folder.resolve().name
