"""A million short documents out of collections that are there: windows of six words, five apart.

    python benchmarks/scale_documents.py DATA DOCS [--documents N]

DATA holds collections in BEIR's layout; DOCS becomes a folder of eight JSONL shards. Windows of under 15 or over 60
characters and repetitions are left out. Each document has the collection it comes from as ``source`` and a whole number
from 0 to 9999 as ``number``, by which filters keep a known share.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

SHARDS = 8
WORDS, STEP = 6, 5
SHORTEST, LONGEST = 15, 60


def windows(data: Path) -> Iterator[tuple[str, str]]:
    """Collection and text of every window, each text once."""
    seen: set[str] = set()
    for corpus in sorted(data.glob("*/corpus.jsonl")):
        for line in corpus.open(encoding="utf-8"):
            row = json.loads(line)
            words = f"{row.get('title', '')} {row['text']}".split()
            for start in range(0, len(words) - STEP, STEP):
                text = " ".join(words[start : start + WORDS])
                if SHORTEST <= len(text) <= LONGEST and text not in seen:
                    seen.add(text)
                    yield corpus.parent.name, text


def main() -> None:
    """Write the shards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("docs", type=Path)
    parser.add_argument("--documents", type=int, default=1_000_000)
    given = parser.parse_args()
    given.docs.mkdir(parents=True, exist_ok=True)
    written = 0
    with ExitStack() as files:
        paths = [given.docs / f"part-{number}.jsonl" for number in range(SHARDS)]
        shards = [files.enter_context(path.open("w", encoding="utf-8")) for path in paths]
        for written, (source, text) in zip(range(1, given.documents + 1), windows(given.data), strict=False):
            row = {"_id": f"m{written - 1}", "text": text, "source": source, "number": (written - 1) % 10_000}
            shards[(written - 1) % SHARDS].write(json.dumps(row) + "\n")
    print(f"{written:,} documents")


if __name__ == "__main__":
    main()
