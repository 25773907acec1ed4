"""Run by a Python that has semantic-router: routes queries of a folder with its local index, as often as asked."""

import sys
from pathlib import Path

import numpy as np
from semantic_router.index.local import LocalIndex


def main(folder: Path) -> None:
    """Say that the index is filled; then answer every batch size with the share of right routes."""
    vectors, queries = np.load(folder / "index.npy"), np.load(folder / "queries.npy")
    routes = (folder / "routes.txt").read_text().split("\n")
    wanted = (folder / "wanted.txt").read_text().split("\n")
    index = LocalIndex()
    index.add(embeddings=vectors.tolist(), routes=routes, utterances=[str(n) for n in range(len(routes))])
    index.index = np.asarray(index.index, np.float32)
    print("ready", flush=True)
    for line in sys.stdin:
        found = [index.query(query, top_k=1)[1][0] for query in queries[: int(line)]]
        right = sum(a == b for a, b in zip(found, wanted, strict=False))
        print(right / len(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
