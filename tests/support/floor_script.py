"""The whole path on a tiny model: run with the lowest versions that the project allows."""

import sys
from pathlib import Path

from tiny import collection_maker, make_checkpoint, random_adapter
from typer.testing import CliRunner

from routerretriever import Collection, Document, Index, RouterRetriever, evaluate
from routerretriever.bench.suite import Suite
from routerretriever.cli.app import app


def main(root: Path) -> None:
    checkpoint = make_checkpoint(root / "base")
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    for seed, name in enumerate("ab"):
        model.add_expert(name, random_adapter(model.encoder.lora_layers, seed))
    make = collection_maker(root)
    collections = [Collection.load(make(name, shift)) for shift, name in ((1, "a"), (2, "b"))]
    model.build_library(collections)
    model.save_pretrained(root / "model")
    evaluate(model, collections)

    index = Index.create(root / "index", model)
    index.add(root / "a")
    index.upsert([Document("x", "word1", "", {"year": 1990})], collection="more")
    assert [hit.id for hit in index.search("word1", where={"year": {"gte": 1990}})] == ["x"]
    (root / "s.yaml").write_text(f"name: n\nbase: {checkpoint}\nexperts: [a]\ndata: .\n")
    Suite.load(root / "s.yaml")

    for command in (["--help"], ["doctor", str(root / "model")], ["library", "--help"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (result.output, result.exception)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
