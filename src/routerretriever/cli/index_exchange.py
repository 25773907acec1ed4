"""``routerretriever index adopt`` and ``export``: documents that are elsewhere, or are needed there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from routerretriever.cli.common import AsJson, Device, IndexUri, Model, load_model
from routerretriever.cli.formatting import err, print_json, say
from routerretriever.cli.index import show
from routerretriever.index.postgres_uri import shown_uri

IdColumn = Annotated[
    str, typer.Option("--id", metavar="COLUMN", help="Column of the ids.", show_default=False)
]
TextColumn = Annotated[
    str, typer.Option("--text", metavar="COLUMN", help="Column of the texts.", show_default=False)
]
VectorColumn = Annotated[
    str, typer.Option("--vector", metavar="COLUMN", help="Column of the vectors.", show_default=False)
]
TitleColumn = Annotated[
    str | None,
    typer.Option("--title", metavar="COLUMN", help="Column of titles that were encoded before the texts."),
]
CollectionColumn = Annotated[
    str | None,
    typer.Option("--collection-column", metavar="COLUMN", help="Column of the collections' names."),
]
AllOfThem = Annotated[
    str | None,
    typer.Option("--collection", help="Collection of all documents, where no column says it."),
]
OnlyCollection = Annotated[
    str | None,
    typer.Option("--collection", help="Write this collection.", show_default="all"),
]


def adopt(
    model: Model,
    index: IndexUri,
    id_column: IdColumn,
    text_column: TextColumn,
    vector_column: VectorColumn,
    title_column: TitleColumn = None,
    collection_column: CollectionColumn = None,
    collection: AllOfThem = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Make an index of a table in PostgreSQL whose vectors MODEL's base has made.

    Some documents are encoded again for comparison. The table is not changed.
    """
    from routerretriever.index.index import Index

    named = {
        "id": id_column,
        "text": text_column,
        "vector": vector_column,
        "title": title_column,
        "collection": collection_column,
    }
    columns = {role: name for role, name in named.items() if name is not None}
    loaded = load_model(model, device)
    _, done = Index.adopt(index, loaded, columns, collection=collection or "", model_path=model)
    text = (
        f"{shown_uri(index)} is an index of {done.documents} documents. Of {done.checked} that were encoded "
        f"again, the mean cosine with the table's vectors is {done.agreement:.4f}."
    )
    show(index, done, text, as_json)
    if not as_json:
        if done.incomplete:
            say(f"{done.incomplete} rows have no text or no vector, so no vector finds them.", err)
        if not done.replaces:
            say("Nothing keeps the ids unique, so documents can be searched but not written.", err)
        if done.left_alone:
            say(f"Columns that no filter reads: {', '.join(done.left_alone)}.", err)
        say(f"For searches by words too: routerretriever index build '{shown_uri(index)}' --text")


def export(
    model: Model,
    index: IndexUri,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False, help="Gets corpus.jsonl.")],
    collection: OnlyCollection = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Write the documents of INDEX into FOLDER to train on, and keep their vectors for MODEL.

    Put queries.jsonl and qrels/ beside the file, or generate queries with `synthesize`; `train` then
    takes the documents' vectors from the index and encodes none.
    """
    from routerretriever.index.index import Index

    loaded = load_model(model, device)
    count = Index.open(index, loaded).export(folder, collection=collection, model=loaded)
    if as_json:
        print_json({"index": shown_uri(index), "folder": str(folder), "documents": count})
    else:
        say(f"{count} documents are in {folder}/corpus.jsonl; training will not encode them again.")
