"""What a hundred million or a billion documents need, worked out from the figures measured here.

    python benchmarks/scale_cost.py [--documents N …] [--core-hour DOLLARS] [--gb-month DOLLARS] [--text-bytes BYTES]

Nothing is measured: every line is a figure of ingest.json, search.json or speed/documents.json times what grows with
the number of documents. Vectors, texts, their indexes and the hours of encoding grow in proportion. Building a vector
index compares every document with the centre of every partition, one for each 8,192 documents until there are 4,096.
How many partitions a query must look into for the same recall was measured with a million documents alone; here it is
the same share of them, which is the most it can be. Prices are assumptions; say your own.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routerretriever.index.kinds import partitions

HERE = Path(__file__).resolve().parent
DIMENSION, FLOAT_BYTES = 384, 4
SAMPLE = 256  # vectors for each centre of a partition, held in memory while the centres are sought
RECALL = 0.95
DOCUMENT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Measured:
    """One document, or one million in one index, on one core.

    Attributes:
        documents: that the search was measured with.
        encode_seconds: of a document with ``DOCUMENT_TOKENS`` tokens.
        short_encode_seconds: of one of the short documents that were indexed.
        build_seconds: of the vector index, on all ``cores``.
        cores: that built it.
        index_bytes: of the vector index, a document.
        text_index_ratio: bytes of the full-text index for a byte of text.
        search_ms: median of a query at ``recall``.
        recall: recall@10 of that.
    """

    documents: int
    encode_seconds: float
    short_encode_seconds: float
    build_seconds: float
    cores: int
    index_bytes: float
    text_index_ratio: float
    search_ms: float
    recall: float


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars, and the bytes of a document's text."""

    core_hour: float = 0.04
    gb_month: float = 0.08
    text_bytes: int = 1000


def measured() -> Measured:
    """What the committed files say."""
    ingest, search, speed = (
        _read(name) for name in ("scale/ingest.json", "scale/search.json", "speed/documents.json")
    )
    kind = next(row for row in search["kinds"] if row["kind"] == "ivf_rq")
    setting = min((s for s in kind["settings"] if s["recall@10"] >= RECALL), key=lambda s: s["ms"]["p50"])
    long = next(
        row for row in speed["rows"] if row["threads"] == 1 and row["documents"] == str(DOCUMENT_TOKENS)
    )
    rate = ingest["throughput"]["systems"]["2 workers"]["documents_per_second"] / ingest["machine"]["cores"]
    count = search["documents"]
    return Measured(
        documents=count,
        encode_seconds=next(iter(long["ms"].values())) / 1000 / long["texts"],
        short_encode_seconds=1 / rate,
        build_seconds=kind["build_seconds"],
        cores=search["machine"]["cores"],
        index_bytes=kind["disk_mib"] * 2**20 / count,
        text_index_ratio=search["text"]["disk_mib"] * 2**20 / search["text_bytes"],
        search_ms=setting["ms"]["p50"],
        recall=setting["recall@10"],
    )


def estimate(documents: int, known: Measured, prices: Prices) -> dict[str, str]:
    """What so many documents need, by what it is."""
    times = documents / known.documents
    vectors = documents * DIMENSION * FLOAT_BYTES
    index = documents * known.index_bytes
    texts = documents * prices.text_bytes * (1 + known.text_index_ratio)
    disk = vectors + index + texts
    encode, short = (documents * s / 3600 for s in (known.encode_seconds, known.short_encode_seconds))
    work = times * partitions(documents) / partitions(known.documents)
    build = known.build_seconds * known.cores * work / 3600
    sample = min(documents, SAMPLE * partitions(documents)) * DIMENSION * FLOAT_BYTES
    return {
        "vectors": _bytes(vectors),
        f"texts of {prices.text_bytes} bytes, with their index": _bytes(texts),
        "vector index (IVF_RQ); the memory in which searches are fast": _bytes(index),
        "disk, a month": f"{_bytes(disk)}, ${disk / 1e9 * prices.gb_month:,.0f}",
        "disk while compacting, at most": _bytes(3 * disk),
        f"encoding, {DOCUMENT_TOKENS} tokens each": _hours(encode, prices),
        "encoding, short as those measured": _hours(short, prices),
        "building the vector index": _hours(build, prices),
        "memory for that, at least": _bytes(sample),
        f"core time of a query at recall@10 {known.recall:.2f}, at most": _seconds(known.search_ms * times),
    }


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((HERE / name).read_text(encoding="utf-8"))
    return content


def _bytes(count: float) -> str:
    return f"{count / 1e12:,.1f} TB" if count >= 1e12 else f"{count / 1e9:,.1f} GB"


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:,.1f} s"


def _hours(hours: float, prices: Prices) -> str:
    return f"{hours:,.1f} core hours, ${hours * prices.core_hour:,.2f}"


def table(
    counts: tuple[int, ...] = (1_000_000, 100_000_000, 1_000_000_000), prices: Prices | None = None
) -> str:
    """The estimates as Markdown, a column for each number of documents."""
    known = measured()
    columns = [estimate(count, known, prices or Prices()) for count in counts]
    lines = ["| | " + " | ".join(f"{count:,}" for count in counts) + " |", "|---|" + "--:|" * len(counts)]
    lines += [f"| {what} | " + " | ".join(column[what] for column in columns) + " |" for what in columns[0]]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    usual = Prices()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, nargs="+", default=[10**6, 10**8, 10**9])
    parser.add_argument(
        "--core-hour", type=float, default=usual.core_hour, help="dollars; default %(default)s"
    )
    parser.add_argument("--gb-month", type=float, default=usual.gb_month, help="dollars; default %(default)s")
    parser.add_argument(
        "--text-bytes", type=int, default=usual.text_bytes, help="of a document; default %(default)s"
    )
    given = parser.parse_args()
    print(table(tuple(given.documents), Prices(given.core_hour, given.gb_month, given.text_bytes)))


if __name__ == "__main__":
    main()
