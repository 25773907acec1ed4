"""Vector indexes built and searched on a cluster: python cluster_search_driver.py ADDRESS MODEL INDEX."""

import json
import logging
import os
import sys
import warnings

import numpy as np

from routerretriever import Index, RouterRetriever
from routerretriever.cluster import build_index_on, searching
from routerretriever.data.document import Document
from routerretriever.index.parameters import SearchParameters

CENTRES = np.random.default_rng(0).standard_normal((40, 32)).astype(np.float32)


def vectors(count, seed):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, 32)).astype(np.float32)
    return CENTRES[rng.integers(len(CENTRES), size=count)] + 0.5 * noise


def write(index, start, count):
    documents = [Document(f"d{k}", f"word{k % 50}", "", {"number": k}) for k in range(start, start + count)]
    stored = iter(vectors(count, start))
    index.upsert(documents, collection="c", encode=lambda texts: np.stack([next(stored) for _ in texts]))


def main(address, model, uri):
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    loaded = RouterRetriever.from_pretrained(model, device="cpu")
    index, queries = Index.create(uri, loaded), vectors(10, 99)
    for part in range(4):
        write(index, part * 2500, 2500)
    result = {}
    for kind in ("ivf_flat", "ivf_pq", "ivf_rq"):
        built = index.build_index(kind, builder=build_index_on(address))
        every = SearchParameters(nprobes=200, refine=30)
        row = {"kind": built.kind, "reason": built.reason, "present": index.kind.kind}
        with searching(index, address) as sharded:
            for name, where in (("all", None), ("few", "number < 100"), ("data", {"number": {"lt": 7000}})):
                here = index.search_vectors(queries, 10, where=where, parameters=every)
                there = sharded.search_vectors(queries, 10, where=where, parameters=every)
                exact = index.search_vectors(queries, 10, where=where, exact=True)
                ids = [[[hit.id for hit in hits] for hits in found] for found in (here, there, exact)]
                row[name] = {
                    "same": ids[0] == ids[1],
                    "recall": recall(ids[1], ids[2]),
                    "k": min(map(len, there)),
                }
                row[name]["hits"] = all(
                    a.to_dict().keys() == b.to_dict().keys() for a, b in zip(here[0], there[0], strict=True)
                )
            write(index, 20_000, 50)  # not in any segment
            fresh = vectors(50, 20_000)[:1]
            row["fresh"] = sharded.search_vectors(fresh, 1)[0][0].id
        result[kind] = row
    print("say", json.dumps(result), flush=True)
    os._exit(0)


def recall(found, exact):
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
