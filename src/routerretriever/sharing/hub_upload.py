"""Models and single experts put on the hub, and copied from there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi

from routerretriever.encoder.protocol import RoutedModel
from routerretriever.errors import HubError, ModelError
from routerretriever.lora.expert_files import is_expert
from routerretriever.routing.pilot_files import PILOT_INFO, PILOT_TENSORS
from routerretriever.routing.self_check import RoutingQuality, routing_quality
from routerretriever.sharing.model_card import expert_card, model_card
from routerretriever.storage.atomic import replacing
from routerretriever.storage.hub_download import NAME, downloaded, reported
from routerretriever.storage.model_folder import (
    EXPERTS,
    MODEL_INFO,
    STATE_FILES,
    forget_training_data,
    read_model_info,
    write_expert,
)


def pull(name: str, folder: str | Path, *, revision: str | None = None) -> Path:
    """Copy a model, or a single expert, from the hub into a new folder, where it can be changed.

    Args:
        name: ``user/name`` or ``user/name@revision``.
        folder: is made; it may be there if it is empty.
        revision: a branch, tag or commit; default the name's own, else the newest.

    Returns:
        The folder.

    Raises:
        HubError: it could not be downloaded, or is neither a model nor an expert.
        ModelError: the folder is not empty.
        FormatError: the model was written by a newer version.
        StorageError: it could not be written; nothing is left in the folder.
    """
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is not empty. Choose another folder.")
    source = downloaded(name, revision=revision)
    if (source / MODEL_INFO).exists():
        read_model_info(source)
    elif not is_expert(source):
        raise HubError(
            f"'{name}' is neither a RouterRetriever model nor an expert (in PEFT's format, or a map). Check the name."
        )
    with replacing(target, renewed=STATE_FILES) as staging:  # the cache's files are links
        shutil.copytree(source, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".gitattributes"))
    return target


def push_model(
    model: RoutedModel,
    name: str,
    *,
    licence: str | None = None,
    data_licences: Mapping[str, str] | None = None,
    private: bool | None = None,
    message: str = "Upload RouterRetriever model",
) -> str:
    """Upload base, experts, pilots and a card; files that the model no longer has are deleted there.

    Args:
        model: it need not have been saved.
        name: ``user/name``; created if it does not exist.
        licence: of the whole, as hubs abbreviate it (``apache-2.0``); default not stated.
        data_licences: expert → licence of its training data; stored in ``model`` with the expert's info.
        private: for a new repository; default the account's setting.
        message: commit message.

    Returns:
        The address of the repository.

    Raises:
        HubError: the token may not write there, or the hub cannot be reached.
        ExpertError: a licence is stated for an expert that does not exist.
    """
    _state_licences(model, data_licences)

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        policy = model.state.policy
        quality: Sequence[RoutingQuality] = ()
        if policy is not None:
            quality = routing_quality(policy)
        card = model_card(
            model.encoder.parts(),
            model.encoder.documents.max_seq_length,
            where=name,
            licence=licence,
            quality=quality,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")

    gone = [f"{EXPERTS}/*", PILOT_INFO, PILOT_TENSORS]
    return _uploaded(name, write, private=private, message=message, delete=gone)


def push_expert(
    model: RoutedModel,
    expert: str,
    name: str,
    *,
    licence: str | None = None,
    data_licences: Mapping[str, str] | None = None,
    private: bool | None = None,
    message: str = "Upload RouterRetriever expert",
) -> str:
    """Upload one expert alone, in PEFT's format with a card; arguments, result and errors as for :func:`push_model`.

    Raises:
        ExpertError: there is no such expert.
    """
    model.state.expert(expert)
    _state_licences(model, data_licences)

    def write(folder: Path) -> None:
        parts = model.encoder.parts()
        write_expert(folder, parts, expert)
        (folder / "README.md").write_text(expert_card(parts, expert, name, licence), encoding="utf-8")

    return _uploaded(name, write, private=private, message=message, delete=[])


def _state_licences(model: RoutedModel, licences: Mapping[str, str] | None) -> None:
    state = model.state
    for name in licences or {}:
        state.expert(name)
    for name, licence in (licences or {}).items():
        state = state.with_info(name, replace(state.infos[name], data_licence=licence))
    model.state = state


def _uploaded(
    name: str,
    write: Callable[[Path], None],
    *,
    private: bool | None,
    message: str,
    delete: list[str],
) -> str:
    if not NAME.fullmatch(name):
        raise HubError(f"'{name}' cannot be a name on the hub. Give one such as user/name.")
    with tempfile.TemporaryDirectory() as scratch, reported(f"'{name}' could not be uploaded to the hub"):
        folder = Path(scratch) / "upload"
        write(folder)
        forget_training_data(folder)
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=message,
            delete_patterns=delete,
            ignore_patterns=["history/*"],
        )
        return f"{api.endpoint}/{name}"
