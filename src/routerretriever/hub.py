"""Models and single experts on the hub: what a name there means, and how to put something there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from routerretriever.errors import HubError, RouterRetrieverError
from routerretriever.model_card import expert_card, model_card
from routerretriever.pilots import PILOT_INFO, PILOT_TENSORS
from routerretriever.routing_quality import routing_quality
from routerretriever.storage import EXPERTS, write_expert

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_name(source: str | Path) -> bool:
    """Whether something that is not a folder here may be ``user/name`` on the hub."""
    return _NAME.fullmatch(str(source)) is not None and not Path(source).exists()


def downloaded(name: str, *, revision: str | None = None) -> Path:
    """The folder of a repository, downloaded where that was not done before.

    Args:
        name: ``user/name``.
        revision: a branch, tag or commit; default the newest.

    Raises:
        HubError: it is not there, not for everyone, or the hub cannot be reached.
    """
    with _reported(f"There is no folder '{name}' here, and it could not be fetched from the hub"):
        return Path(snapshot_download(name, revision=revision))


def push_model(
    model: RouterRetriever,
    name: str,
    *,
    licence: str | None = None,
    private: bool | None = None,
    message: str = "Upload RouterRetriever model",
) -> str:
    """Upload base, experts, pilots and a card; what an earlier version had and this one has not is removed there.

    Args:
        model: as it is now; nothing needs to be saved before.
        name: ``user/name``; made if it is not there.
        licence: of the whole, as hubs abbreviate it (``apache-2.0``); default not stated.
        private: for a new repository; default what the account says.
        message: of the commit.

    Returns:
        Where it can be seen.

    Raises:
        HubError: the token may not write there, or the hub cannot be reached.
    """

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
    private: bool | None = None,
    message: str = "Upload RouterRetriever expert",
) -> str:
    """Upload one expert alone, in PEFT's format with a card; arguments, result and errors as for :func:`push_model`.

    Raises:
        ExpertError: there is no such expert.
    """
    model.encoder.expert(expert)

    def write(folder: Path) -> None:
        write_expert(model.encoder, expert, folder)
        (folder / "README.md").write_text(expert_card(model.encoder, expert, name, licence), encoding="utf-8")

    return _uploaded(name, write, private, message, [])


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
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        advice = " Log in with `hf auth login`, or set HF_TOKEN." if status in (401, 403) else ""
        raise HubError(f"{what}: {str(error).strip().splitlines()[-1]}{advice}") from error
    except RouterRetrieverError:
        raise
    except Exception as error:  # also what the client's transport raises, a library that changes with its version
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HubError(f"{what}: {reason}") from error
