"""Models and single experts on the hub: what a name there means, and how to put something there."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from routerretriever.errors import HubError, ModelError, RouterRetrieverError
from routerretriever.lora import ADAPTER_CONFIG
from routerretriever.model_card import expert_card, model_card
from routerretriever.pilots import PILOT_INFO, PILOT_TENSORS
from routerretriever.routing_quality import routing_quality
from routerretriever.storage import EXPERTS, MODEL_INFO, read_model_info, replacing, write_expert

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_NAME_AT = re.compile(rf"({_NAME.pattern})(?:@([\w./-]+))?")


def is_hub_name(source: str | Path) -> bool:
    """Whether something that is not a folder here may be ``user/name`` or ``user/name@revision`` on the hub."""
    return _NAME_AT.fullmatch(str(source)) is not None and not Path(source).exists()


def repository(name: str) -> tuple[str, str | None]:
    """A name as ``user/name`` and revision.

    Raises:
        HubError: it is no name on the hub.
    """
    found = _NAME_AT.fullmatch(name)
    if found is None:
        raise HubError(f"'{name}' is no name on the hub. Give one such as user/name.")
    return found[1], found[2]


def downloaded(name: str, *, revision: str | None = None) -> Path:
    """The folder of a repository, downloaded where that was not done before; without a connection, as it was last.

    Args:
        name: ``user/name`` or ``user/name@revision``.
        revision: a branch, tag or commit; default the name's own, else the newest.

    Raises:
        HubError: it is not there, not for everyone, or the hub cannot be reached.
    """
    repo, own = repository(name)
    with _reported(f"There is no folder '{name}' here, and it could not be fetched from the hub"):
        return Path(snapshot_download(repo, revision=revision or own))


def read_folder(source: str | Path, *, revision: str | None = None) -> Path:
    """The folder that is meant wherever a model or an expert is only read: one here goes before a name on the hub.

    Args:
        source: a folder, or ``user/name`` or ``user/name@revision`` on the hub.
        revision: of one on the hub.

    Raises:
        HubError: it is not a folder here, and could not be fetched from the hub.
    """
    return downloaded(str(source), revision=revision) if is_hub_name(source) else Path(source).expanduser()


def own_folder(source: str | Path, *, new: bool = False) -> Path:
    """The folder that is meant wherever a model is changed: never the hub, nor what was downloaded from it.

    Args:
        source: a folder.
        new: whether it is made where it is not there, so that what may be a name on the hub is a folder.

    Raises:
        ModelError: it is a name on the hub, or a folder in the hub's cache.
    """
    if is_hub_name(source) and not new:
        raise ModelError(
            f"There is no folder '{source}' here, and a model on the hub is not changed there. Get a copy of it and "
            f"change that: routerretriever pull {source} FOLDER"
        )
    if is_download(source):
        raise ModelError(
            f"{source} is a download that other programs may share. Get a copy of the model and change that: "
            "routerretriever pull USER/NAME FOLDER"
        )
    return Path(source).expanduser()


def is_download(folder: str | Path) -> bool:
    """Whether a folder lies in the hub's cache, where nothing but the hub's client may write."""
    return Path(folder).expanduser().resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve())


def pull(name: str, folder: str | Path, *, revision: str | None = None) -> Path:
    """Copy a model, or an expert that stands alone, from the hub into a folder of its own, where it can be changed.

    Args:
        name: ``user/name`` or ``user/name@revision``.
        folder: is made; it may be there if it is empty.
        revision: a branch, tag or commit; default the name's own, else the newest.

    Returns:
        The folder.

    Raises:
        HubError: it could not be fetched, or is neither a model nor an expert.
        ModelError: the folder is not empty.
        FormatError: the model was written by a newer version.
        StorageError: it could not be written; nothing is left there.
    """
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is not empty. Choose another folder.")
    source = downloaded(name, revision=revision)
    if (source / MODEL_INFO).exists():
        read_model_info(source)
    elif not (source / ADAPTER_CONFIG).exists():
        raise HubError(f"'{name}' is neither a RouterRetriever model nor an expert in PEFT's format. Check the name.")
    with replacing(target) as staging:  # the cache's files are links
        shutil.copytree(source, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".gitattributes"))
    return target


def push_model(
    model: RouterRetriever,
    name: str,
    *,
    licence: str | None = None,
    data_licences: Mapping[str, str] | None = None,
    private: bool | None = None,
    message: str = "Upload RouterRetriever model",
) -> str:
    """Upload base, experts, pilots and a card; what an earlier version had and this one has not is removed there.

    Args:
        model: as it is now; nothing needs to be saved before.
        name: ``user/name``; made if it is not there.
        licence: of the whole, as hubs abbreviate it (``apache-2.0``); default not stated.
        data_licences: expert → licence of what it was trained on; kept in ``model`` with what is known of the expert.
        private: for a new repository; default what the account says.
        message: of the commit.

    Returns:
        Where it can be seen.

    Raises:
        HubError: the token may not write there, or the hub cannot be reached.
        ExpertError: a licence is stated for an expert that is not there.
    """
    _state_licences(model, data_licences)

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        policy = model.encoder.policy
        quality = routing_quality(policy) if policy is not None else ()
        (folder / "README.md").write_text(model_card(model.encoder, name, licence, quality), encoding="utf-8")

    gone = [f"{EXPERTS}/*", PILOT_INFO, PILOT_TENSORS]
    return _uploaded(name, write, private, message, gone)


def push_expert(
    model: RouterRetriever,
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
    model.encoder.expert(expert)
    _state_licences(model, data_licences)

    def write(folder: Path) -> None:
        write_expert(model.encoder, expert, folder)
        (folder / "README.md").write_text(expert_card(model.encoder, expert, name, licence), encoding="utf-8")

    return _uploaded(name, write, private, message, [])


def _state_licences(model: RouterRetriever, licences: Mapping[str, str] | None) -> None:
    encoder = model.encoder
    for name in licences or {}:
        encoder.expert(name)
    for name, licence in (licences or {}).items():
        encoder.expert_info[name] = replace(encoder.expert_info[name], data_licence=licence)


def _uploaded(name: str, write: Callable[[Path], None], private: bool | None, message: str, delete: list[str]) -> str:
    if not _NAME.fullmatch(name):
        raise HubError(f"'{name}' is no name on the hub. Give one such as user/name.")
    with tempfile.TemporaryDirectory() as scratch, _reported(f"'{name}' could not be uploaded to the hub"):
        folder = Path(scratch) / "upload"
        write(folder)
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


@contextmanager
def _reported(what: str) -> Iterator[None]:
    try:
        yield
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{what}: it is not there, or not for everyone. Log in with `hf auth login`, or set HF_TOKEN."
        ) from error
    except LocalEntryNotFoundError as error:
        reason = "it is not asked" if constants.HF_HUB_OFFLINE else _first_line(error.__cause__ or error)
        advice = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        raise HubError(f"{what}, nor was it downloaded before: {reason}{advice}") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        advice = " Log in with `hf auth login`, or set HF_TOKEN." if status in (401, 403) else ""
        raise HubError(f"{what}: {str(error).strip().splitlines()[-1]}{advice}") from error
    except RouterRetrieverError:
        raise
    except Exception as error:  # also what the client's transport raises, a library that changes with its version
        raise HubError(f"{what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
