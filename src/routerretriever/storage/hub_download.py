"""Models and experts read from the hub: what a name there means, and downloads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub  # which loads what is asked for, when it is
from huggingface_hub import constants, errors

from routerretriever.errors import HubError, ModelError, RouterRetrieverError
from routerretriever.storage.atomic import restore

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_NAME_AT = re.compile(rf"({NAME.pattern})(?:@([\w./-]+))?")


def is_hub_name(source: str | Path) -> bool:
    """Tell whether ``source`` can be ``user/name`` or ``user/name@revision``, and is no path here."""
    return _NAME_AT.fullmatch(str(source)) is not None and not Path(source).exists()


def repository(name: str) -> tuple[str, str | None]:
    """Split a name into ``user/name`` and revision.

    Raises:
        HubError: it cannot be a name on the hub.
    """
    found = _NAME_AT.fullmatch(name)
    if found is None:
        raise HubError(f"'{name}' cannot be a name on the hub. Give one such as user/name.")
    return found[1], found[2]


def downloaded(name: str, *, revision: str | None = None) -> Path:
    """Download a repository where that was not done before, and return its folder.

    Without a connection that is the newest copy in the cache.

    Args:
        name: ``user/name`` or ``user/name@revision``.
        revision: a branch, tag or commit; default the name's own, else the newest.

    Raises:
        HubError: the repository is not found or private, or the hub cannot be reached.
    """
    repo, own = repository(name)
    with reported(f"There is no folder '{name}', and it could not be downloaded from the hub"):
        return Path(huggingface_hub.snapshot_download(repo, revision=revision or own))


def snapshot(source: str, options: dict[str, Any]) -> Path:
    """Return a folder as it is, or the snapshot of a hub repository.

    Args:
        source: a folder, or ``user/name``.
        options: of Sentence Transformers' loaders: ``revision``, ``cache_folder``, ``token`` and
            ``local_files_only`` count.
    """
    if Path(source).is_dir():
        return Path(source)
    folder = huggingface_hub.snapshot_download(
        source,
        revision=options.get("revision"),
        cache_dir=options.get("cache_folder"),
        token=options.get("token"),
        local_files_only=options.get("local_files_only", False),
    )
    return Path(folder)


def read_folder(source: str | Path, *, revision: str | None = None) -> Path:
    """Return the folder of a model or an expert that is only read.

    A local folder takes precedence over a name on the hub.

    Args:
        source: a folder, or ``user/name`` or ``user/name@revision`` on the hub.
        revision: of one on the hub.

    Raises:
        HubError: it is no folder here and could not be downloaded from the hub.
    """
    restore(Path(source))
    if is_hub_name(source):
        return downloaded(str(source), revision=revision)
    return Path(source).expanduser()


def own_folder(source: str | Path, *, new: bool = False) -> Path:
    """Return the folder of a model that is changed: neither on the hub nor downloaded from it.

    Args:
        source: a folder.
        new: whether a missing folder is made, so that a name such as ``user/name`` means a folder.

    Raises:
        ModelError: it is a name on the hub, or a folder in the hub's cache.
    """
    restore(Path(source))
    if is_hub_name(source) and not new:
        raise ModelError(
            f"There is no folder '{source}', and a model on the hub cannot be changed there. Copy it and "
            f"change the copy: routerretriever pull {source} FOLDER"
        )
    if is_download(source):
        raise ModelError(
            f"{source} is in the hub's cache, which other programs share. Copy the model and change "
            "the copy: routerretriever pull USER/NAME FOLDER"
        )
    return Path(source).expanduser()


def is_download(folder: str | Path) -> bool:
    """Tell whether a folder is in the hub's cache, where only the hub's client may write."""
    return Path(folder).expanduser().resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve())


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn errors of the hub's client into a :class:`HubError` that names ``what``."""
    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{what}: repository not found or private. Check the name. For a private repository, log in "
            "with `hf auth login` or set HF_TOKEN."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        reason = _first_line(error.__cause__ or error)
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set, so the hub is not asked"
        raise HubError(f"{what}, and the cache has no copy: {reason}.") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        advice = ""
        if status in (401, 403):
            advice = " Log in with `hf auth login` or set HF_TOKEN."
        raise HubError(f"{what}: {str(error).strip().splitlines()[-1]}{advice}") from error
    except RouterRetrieverError:
        raise
    except (
        Exception
    ) as error:  # also what the client's transport raises, a library that changes with its version
        raise HubError(f"{what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
