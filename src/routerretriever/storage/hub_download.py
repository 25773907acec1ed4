"""Models and experts read from the hub: what a name there means, and downloads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from routerretriever.errors import HubError, ModelError, RouterRetrieverError

if TYPE_CHECKING:
    pass


NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_NAME_AT = re.compile(rf"({NAME.pattern})(?:@([\w./-]+))?")


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
    with reported(f"There is no folder '{name}' here, and it could not be fetched from the hub"):
        return Path(snapshot_download(repo, revision=revision or own))


def snapshot(source: str, options: dict[str, Any]) -> Path:
    """Return a folder as it is, or the snapshot of a hub repository.

    Args:
        source: a folder, or ``user/name``.
        options: of Sentence Transformers' loaders: ``revision``, ``cache_folder``, ``token`` and
            ``local_files_only`` count.
    """
    if Path(source).is_dir():
        return Path(source)
    folder = snapshot_download(
        source,
        revision=options.get("revision"),
        cache_dir=options.get("cache_folder"),
        token=options.get("token"),
        local_files_only=options.get("local_files_only", False),
    )
    return Path(folder)


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


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn errors of the hub's client into a :class:`HubError` that names ``what``."""
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
