"""From an empty folder with 2,000 pages of mixed files to an index that answers: time and memory.

    python benchmarks/up.py --out benchmarks/up.json

The files are made of the texts of ``../shared/data`` in a temporary folder: a third of the pages in PDF, the
others in Word, HTML, Markdown, text, CSV, PowerPoint and e-mail. The command runs in a process of its own, with
an empty cache, and again after ten files have changed.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docx
import pptx
import psutil

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
COLLECTIONS = ("medquad", "scifact", "cranfield", "pubmedqa")
PAGE_CHARACTERS = 2400
PAGES_OF_A_FILE = 8
CHANGED = 10
_LINES_OF_A_PDF_PAGE = 60


def pages(data: Path, count: int) -> Iterator[str]:
    """Yield pages of running text."""
    texts = itertools.chain.from_iterable(
        (json.loads(line)["text"] for line in (data / name / "corpus.jsonl").open(encoding="utf-8"))
        for name in COLLECTIONS
    )
    page = ""
    made = 0
    for text in texts:
        page += text + "\n\n"
        while len(page) >= PAGE_CHARACTERS and made < count:
            yield page[:PAGE_CHARACTERS]
            page = page[PAGE_CHARACTERS:]
            made += 1
        if made == count:
            return


def pdf(texts: list[str]) -> bytes:
    """Return a PDF with a text on each page."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(texts)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(texts)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(texts):
        lines = textwrap.wrap(text.encode("ascii", "replace").decode(), 100)[:_LINES_OF_A_PDF_PAGE]
        escaped = [line.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)") for line in lines]
        shown = " ".join(f"({line}) Tj T*" for line in escaped)
        stream = f"BT /F1 10 Tf 12 TL 40 780 Td {shown} ET"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out = "%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    end = f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF"
    return f"{out}xref\n0 {size}\n0000000000 65535 f \n{table}{end}".encode()


def word(texts: list[str]) -> bytes:
    """Return a Word file with a heading for each text."""
    document = docx.Document()
    for number, text in enumerate(texts, start=1):
        document.add_heading(f"Chapter {number}", level=1)
        for paragraph in text.split("\n\n"):
            document.add_paragraph(paragraph)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def slides(texts: list[str]) -> bytes:
    """Return a presentation with a slide for each text."""
    presentation = pptx.Presentation()
    for number, text in enumerate(texts, start=1):
        slide = presentation.slides.add_slide(presentation.slide_layouts[1])
        slide.shapes.title.text = f"Slide {number}"
        slide.placeholders[1].text = text
    out = io.BytesIO()
    presentation.save(out)
    return out.getvalue()


def html(texts: list[str]) -> bytes:
    """Return a page with a heading for each text."""
    parts = [f"<h2>Part {number}</h2><p>{text}</p>" for number, text in enumerate(texts, start=1)]
    return f"<title>Notes</title><body>{''.join(parts)}</body>".encode()


def markdown(texts: list[str]) -> bytes:
    """Return Markdown with a heading for each text."""
    return "\n\n".join(f"## Part {number}\n\n{text}" for number, text in enumerate(texts, start=1)).encode()


def plain(texts: list[str]) -> bytes:
    """Return the texts."""
    return "\n\n".join(texts).encode()


def table(texts: list[str]) -> bytes:
    """Return a table with a row for each text."""
    rows = [json.dumps(" ".join(text.replace('"', "'").split()), ensure_ascii=False) for text in texts]
    return "\n".join(["number,note", *(f"{number},{row}" for number, row in enumerate(rows))]).encode()


def mail(texts: list[str]) -> bytes:
    """Return a message with the texts."""
    head = (
        "From: a@example.org\nTo: b@example.org\nSubject: Notes\nContent-Type: text/plain; charset=utf-8\n\n"
    )
    return head.encode() + plain(texts)


KINDS = [
    *((".pdf", pdf), (".md", markdown), (".docx", word), (".pdf", pdf), (".html", html), (".txt", plain)),
    *((".pdf", pdf), (".csv", table), (".pptx", slides), (".pdf", pdf), (".eml", mail), (".docx", word)),
]


def write_files(folder: Path, data: Path, count: int) -> list[Path]:
    """Write so many pages into files of all kinds."""
    written: list[Path] = []
    source = pages(data, count)
    while texts := list(itertools.islice(source, PAGES_OF_A_FILE)):
        number = len(written)
        suffix, make = KINDS[number % len(KINDS)]
        path = folder / f"part{number % 5}" / f"file{number:04d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make(texts))
        written.append(path)
    return written


def measured(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a command; return its time, its most memory with that of its children, and its report."""
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        most = 0
        done = threading.Event()

        def watch() -> None:
            nonlocal most
            while not done.wait(0.2):
                most = max(most, _resident(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        output, _ = process.communicate()
        done.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}.")
    seconds = round(time.perf_counter() - start, 1)
    return {"seconds": seconds, "peak_mib": most >> 20, "report": json.loads(output)}


def _resident(pid: int) -> int:
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def main() -> None:
    """Measure the first run, a run after ten changes, and a search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=2000)
    parser.add_argument("--data", type=Path, default=REAL)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "files"
        files = write_files(folder, given.data, given.pages)
        environment = {**os.environ, "ROUTERRETRIEVER_CACHE": str(Path(temporary) / "cache")}
        command = [sys.executable, "-m", "routerretriever", "up", str(folder), "--no-serve", "--json"]
        first = measured(command, environment)
        for path in files[:: len(files) // CHANGED][:CHANGED]:
            suffix = path.suffix
            make = dict(KINDS)[suffix]
            path.write_bytes(make([f"Changed: {path.name}. The quick brown fox reads the news."] * 2))
        second = measured(command, environment)
        index = str(folder / ".routerretriever" / "index")
        search = [
            sys.executable,
            "-m",
            "routerretriever",
            "search",
            index,
            "risk factors of leukemia",
            "--json",
        ]
        answered = measured(search, environment)
    hits = answered["report"]["hits"]
    result = {
        "pages": given.pages,
        "files": len(files),
        "cores": os.cpu_count(),
        "first": _figures(first),
        "second": _figures(second),
        "search_seconds": answered["seconds"],
        "best": {"id": hits[0]["id"], "passage": hits[0]["passage"]},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


def _figures(run: dict[str, Any]) -> dict[str, Any]:
    report = run["report"]
    kept = {name: report[name] for name in ("documents", "encoded", "unchanged")}
    return {"seconds": run["seconds"], "peak_mib": run["peak_mib"], **kept, "unread": len(report["problems"])}


if __name__ == "__main__":
    main()
