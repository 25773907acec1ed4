"""A pair of bases: documents by all-MiniLM-L6-v2, queries by static embeddings that were fitted to it.

    python benchmarks/asymmetric.py DATA QUERIES [OUT.json]

DATA holds the collections in BEIR's layout. QUERIES is the folder of the encoder of queries, which is made if it is not
there: a vector for each token, so that the mean over a text's tokens comes near to MiniLM's vector of the text. It
begins with MiniLM's vectors of the tokens alone and is corrected by ridge regression on short documents of all
collections; no query takes part. A map is trained for each of three collections, on at most 2,000 queries, and
chosen by its held-out queries, the router by theirs. Figures are nDCG@10 of at most 500 test queries; the router is
not told where they come from.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from core import LIMIT, REAL, SEED, surroundings
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer
from torch import nn

from routerretriever import Collection, RouterRetriever, TrainingConfig, evaluate, train_expert
from routerretriever.cli.common import quiet_libraries
from routerretriever.encoder.base_models import load_base
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.kernels.vectors import Vectors
from routerretriever.progress import Bars

TRAINED = ("mitre_attack", "nl2bash", "bankfaq")
QUERIES = 2000
"""Queries of a collection that train its map, at most."""
DOCUMENTS_EACH = 3000
"""Documents of a collection that take part, at most."""
LONGEST = 40
"""Words of the longest of them."""
RIDGE = 0.01
STEPS = 20
"""Steps of conjugate gradients."""


def short_documents(data: Path) -> list[str]:
    """Return some short documents of each collection that has any."""
    rng = np.random.default_rng(SEED)
    found: list[str] = []
    for name in (*REAL.experts, *REAL.unseen):
        short = [text for text in Collection.load(data / name).contents if len(text.split()) <= LONGEST]
        found += [short[row] for row in rng.permutation(len(short))[:DOCUMENTS_EACH].tolist()]
    return found


def fitted(
    texts: Sequence[str], wanted: Vectors, tokenizer: Tokenizer, start: Vectors
) -> NDArray[np.float32]:
    """Return a vector for each token (t, d) whose means over texts come near to given vectors.

    Args:
        texts: to fit.
        wanted: their vectors (n, d).
        tokenizer: divides them.
        start: vectors of the tokens (t, d), from which the result departs as little as it needs to.
    """
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    for row, encoded in enumerate(tokenizer.encode_batch(list(texts), add_special_tokens=False)):
        rows += [row] * len(encoded.ids)
        columns += encoded.ids
        values += [1 / max(1, len(encoded.ids))] * len(encoded.ids)
    shape = (len(texts), tokenizer.get_vocab_size())
    means = csr_matrix((np.array(values, np.float32), (rows, columns)), shape)
    transposed = means.T.tocsr()

    table = start.copy()
    residual = transposed @ (wanted - means @ start)
    direction, size = residual.copy(), (residual**2).sum(axis=0)
    for _ in range(STEPS):
        image = transposed @ (means @ direction) + RIDGE * direction
        step = size / np.maximum((direction * image).sum(axis=0), 1e-20)
        table += step * direction
        residual -= step * image
        before, size = size, (residual**2).sum(axis=0)
        direction = residual + size / np.maximum(before, 1e-20) * direction
    return table


def make_queries(data: Path, folder: Path) -> None:
    """Write the encoder of queries."""
    base = RouterRetriever.create()
    texts = short_documents(data)
    print(f"{len(texts)} documents", flush=True)
    tokenizer = base.encoder.tokenizer.backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokens = [
        text or "." for text in tokenizer.decode_batch([[n] for n in range(tokenizer.get_vocab_size())])
    ]
    table = fitted(texts, base.embed_texts(texts), tokenizer, base.embed_texts(tokens))
    modules: list[nn.Module] = [StaticEmbedding(tokenizer, embedding_weights=table), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))


def trained(collections: Sequence[Collection], queries: Path) -> RouterRetriever:
    """Return the pair with a map for each collection, and a library."""
    model = RouterRetriever.create(query_base=str(queries))
    config = TrainingConfig(seed=SEED, kind=TrainedKinds.MAP, max_queries=QUERIES)
    for collection in collections:
        report = train_expert(model, collection, config=config, force=True, progress=Bars())
        print(collection.name, report.to_dict(), flush=True)
    model.build_library(collections, progress=Bars())
    return model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    args = parser.parse_args()
    quiet_libraries()
    if not args.queries.exists():
        make_queries(args.data, args.queries)
    collections = [Collection.load(args.data / name) for name in TRAINED]
    pair = trained(collections, args.queries)
    found = evaluate(pair, collections, limit=LIMIT, progress=Bars())
    alone = evaluate(RouterRetriever.create(), collections, limit=LIMIT, progress=Bars())

    rows: dict[str, dict[str, float]] = {}
    for of_pair, of_base in zip(found.collections, alone.collections, strict=True):
        rows[of_pair.name] = {
            "base": of_base.systems["base"].mean(),
            "query base": of_pair.systems["base"].mean(),
            "query base, routed": of_pair.systems["routed"].mean(),
        }
    mean = {system: float(np.mean([row[system] for row in rows.values()])) for system in rows[TRAINED[0]]}
    result: dict[str, Any] = {
        "command": "python benchmarks/asymmetric.py DATA QUERIES",
        **surroundings(),
        "aligned": pair.encoder.aligned,
        "weights": {
            "base": sum(tensor.numel() for tensor in load_base("all-MiniLM-L6-v2").parameters()),
            "query base": sum(tensor.numel() for tensor in pair.encoder.body.parameters()),
        },
        "ndcg@10": rows,
        "mean": mean,
    }
    print(json.dumps(result, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
