"""Change a saved model under its lock, so that no change of another process is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

from routerretriever.errors import ModelError
from routerretriever.model import RouterRetriever
from routerretriever.storage.hub_download import own_folder
from routerretriever.storage.locks import changing
from routerretriever.storage.model_folder import MODEL_INFO, check_fingerprint, read_model_info
from routerretriever.storage.saved_version import SavedVersion

T = TypeVar("T")


@contextmanager
def changed_model(path: str | Path, device: str | None = None) -> Iterator[RouterRetriever]:
    """Load a saved model, yield it, and save its experts and pilots when the block succeeds.

    Others that change the model wait, so the block should take seconds. For longer work see
    :func:`change_after`.

    Raises:
        LockedError: another process is changing the model.
        ModelError: it cannot be loaded, or is not a folder of one's own.
        StorageError: it could not be saved; what was saved before is unchanged.
    """
    folder = own_folder(path)
    read_model_info(folder)
    with changing(folder):
        model = RouterRetriever.from_pretrained(folder, device=device)
        yield model
        model.save_experts(folder)


def change_after(
    path: str | Path, work: Callable[[RouterRetriever], T], *, device: str | None = None
) -> tuple[RouterRetriever, T]:
    """Change a saved model by long work, which does not keep others from changing it meanwhile.

    Args:
        path: of the model.
        work: changes the model that it is given. It is done again, on the newest version and under
            the lock, if another process changed the model meanwhile.
        device: torch device; default the best one present.

    Returns:
        The model as it was saved, and what ``work`` returned.
    """
    folder = own_folder(path)
    read_model_info(folder)
    version = SavedVersion.of(folder)
    model = RouterRetriever.from_pretrained(folder, device=device)
    result = work(model)

    with changing(folder):
        if SavedVersion.of(folder) != version:
            model = RouterRetriever.from_pretrained(folder, device=device)
            result = work(model)
        model.save_experts(folder)
    return model, result


def save_trained(path: str | Path, trained: RouterRetriever, expert: str, *, replace: bool = False) -> str:
    """Add an expert to a saved model as that is now, or save a new model with it.

    Args:
        path: folder of the model, which need not exist.
        trained: the model that was trained, whose other experts are ignored if there is a saved one.
        expert: name of the new expert.
        replace: take the place of an expert of that name.

    Returns:
        The name of the expert: with a number where another process took the name meanwhile.

    Raises:
        FingerprintError, ModelError: the saved model has another base or other layers for experts.
        StorageError: it could not be saved; what was saved before is unchanged.
    """
    folder = own_folder(path, new=True)
    with changing(folder):
        if not (folder / MODEL_INFO).exists():
            trained.save_pretrained(folder)
            return expert

        model = RouterRetriever.from_pretrained(folder, device=str(trained.device))
        _check_same_layers(model, trained, folder)
        name = expert if replace else _free_name(expert, model)
        adapter, info = trained.state.expert(expert), trained.state.infos[expert]
        model.add_expert(name, adapter, info, replace=replace and name in model.experts)
        model.save_experts(folder)
    return name


def _check_same_layers(saved: RouterRetriever, trained: RouterRetriever, folder: Path) -> None:
    what = f"The model in {folder} was replaced during the training: its files"
    check_fingerprint(trained.encoder.fingerprint, saved.encoder.fingerprint, what)
    if saved.encoder.get_config_dict() != trained.encoder.get_config_dict():
        raise ModelError(
            f"The model in {folder} was replaced during the training and has other layers for its "
            "experts now. Train the expert again."
        )


def _free_name(name: str, model: RouterRetriever) -> str:
    if name not in model.experts:
        return name
    return next(free for n in count(2) if (free := f"{name}-{n}") not in model.experts)
