"""Files of documents, what an index holds of them, and builds that are killed."""

import gzip
import json

import lance
import numpy as np
import pyarrow as pa
from tiny import WORDS

from routerretriever.passages.passage import Passage
from routerretriever.synthesis.passages import Passages


def texts(count=80, words=12, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[:200], words)) for _ in range(count)]


def write_documents(path, contents, **fields):
    lines = [json.dumps({"_id": f"d{n}", "text": text, **fields}) for n, text in enumerate(contents)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def whole_passages(documents):
    """What queries are made of, where all documents are short."""
    return Passages.of((document, [Passage.whole(document)]) for document in documents)


def record(k, text=None, **more):
    return {"_id": f"d{k}", "text": text or f"word{k} word{(k * 7) % 200}", "year": 1990 + k % 10, **more}


def write_jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        content = pa.compress(content, codec="zstd", asbytes=True)
    path.write_bytes(content)
    return path


def stored(index):
    """id → (text, vector) of everything in the index."""
    table = lance.dataset(f"{index.uri}/documents.lance").to_table()
    rows = {row["id"]: (row["text"], row["vector"]) for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    assert [key.split("\x1f")[1] for key in table["key"].to_pylist()] == list(rows)
    return rows


class Killed(BaseException):
    """Stands for a process that ends on the spot."""


def killed_after(monkeypatch, model, chunks):
    """Encoding ends on the spot after this many chunks; the lock stays, as after a kill."""
    done = []
    embed = type(model).embed_texts

    def encode(self, texts, **kwargs):
        if len(done) == chunks:
            raise Killed
        done.append(len(texts))
        return embed(self, texts, **kwargs)

    monkeypatch.setattr(type(model), "embed_texts", encode)
    return done
