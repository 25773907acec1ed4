"""``routerretriever up``: from a folder of files to a page that answers, in one go."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routerretriever.cli.common import AsJson, Device
from routerretriever.cli.formatting import err, print_json, say
from routerretriever.cli.index import Ignored, show_report
from routerretriever.cli.serve import Port, serve
from routerretriever.errors import EngineError
from routerretriever.progress import Bars

if TYPE_CHECKING:
    from routerretriever.index.build.report import BuildReport
    from routerretriever.index.index import Index

STATE_FOLDER = ".routerretriever"
"""Folder inside the one that is searched, where model and index are kept; hidden files are not read."""

_DEFAULT_BASE = "all-MiniLM-L6-v2"

Folder = Annotated[
    Path,
    typer.Argument(metavar="FOLDER", help="Folder of files, with all folders in it.", show_default=False),
]
State = Annotated[
    Path | None,
    typer.Option("--state", help="Folder for model and index.", show_default=f"FOLDER/{STATE_FOLDER}"),
]
Base = Annotated[
    str | None,
    typer.Option(help="Base encoder of a new model: hub id or path.", show_default=_DEFAULT_BASE),
]
Serve = Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the page when the index is ready.")]


def up(
    folder: Folder,
    state: State = None,
    base: Base = None,
    ignore: Ignored = None,
    serve_page: Serve = True,
    port: Port = 8080,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Index the files of FOLDER, and serve a page that searches them.

    Run again, it takes up what changed: new and changed files are encoded, those that are gone are removed.
    After a kill it ends in the same state. Files that are dropped on the page are kept beside those of FOLDER, in
    a collection of their own. The page is for this machine; `routerretriever serve` serves others.
    """
    folder = folder.expanduser().absolute()
    kept = (state or folder / STATE_FOLDER).expanduser().absolute()
    opened, report = _indexed(folder, kept, base, tuple(ignore or ()), device)
    _compile_if_possible(kept / "model")
    if as_json:
        print_json({"index": str(kept / "index"), **report.to_dict(), "total": len(opened)})
    else:
        show_report(report, f"{len(opened)} documents of {folder} can be searched.")
        if not report.pruned:
            say("Nothing was removed, since a folder cannot be listed.")
    if serve_page:
        key = _writing_key(kept / "key")
        if not as_json:
            say(
                f"To add and remove files on the page: http://127.0.0.1:{port}/#key={key.read_text().strip()}"
            )
        serve(
            str(kept / "model"),
            index=str(kept / "index"),
            files=folder,
            port=port,
            admin_keys=key,
            device=device,
            as_json=as_json,
        )
    elif not as_json:
        say(f'Search: routerretriever search {kept / "index"} "your query"')


def _indexed(
    folder: Path, kept: Path, base: str | None, ignore: tuple[str, ...], device: str | None
) -> tuple[Index, BuildReport]:
    from routerretriever.cli.train import open_or_save
    from routerretriever.files.scan import check_listable
    from routerretriever.index.build.settings import BuildSettings
    from routerretriever.index.index import Index

    # Before the model is made, which takes seconds.
    check_listable(folder)
    model = open_or_save(kept / "model", base, device)
    _remove_unfinished(kept / "index")
    opened = Index.create(kept / "index", model, model_path=kept / "model")
    settings = BuildSettings(on_error="skip", resume=True, prune="if-listed", read_as="files", ignore=ignore)
    report = opened.add(folder, settings=settings, precision="auto", progress=Bars())
    return opened, report


def _compile_if_possible(model: Path) -> None:
    """Write the engine that answers queries without torch, once; a base that has none is served by torch."""
    from routerretriever.compiling import compile_model

    try:
        compile_model(model)
    except EngineError as error:
        say(f"Queries are answered by torch, which starts more slowly. {error}", err)


def _writing_key(path: Path) -> Path:
    """Return the file of the key that opens writing, which only its owner can read; a new one if there is none."""
    if not path.exists():
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{secrets.token_urlsafe()}\n")
        unfinished.replace(path)
    return path


def _remove_unfinished(index: Path) -> None:
    """Remove what a kill left of an index that was being created: it holds no documents yet."""
    from routerretriever.index.connection import exists

    if index.is_dir() and not exists(str(index)):
        shutil.rmtree(index)
