"""Build the documentation's site: the pages of this folder, and those made of the code and of the benchmarks.

    python docs/make_site.py [--serve]

Pages are gathered in ``build/pages`` and built into ``build/site`` by Zensical. A link or picture that leads nowhere
ends the build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import make_reference
import make_results

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build" / "pages"
PICTURES = (".png", ".svg")
OUTSIDE = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/speed/README.md": "results/speed.md",
    "benchmarks/scale/README.md": "results/scale.md",
}
"""Pages that lie elsewhere in the repository, and where the site has them."""
FOLDERS = {
    "benchmarks": "results/index.md",
    "benchmarks/serving": "results/index.md",
    "suites": "evaluation.md",
}
"""Folders that pages link to, and the page that tells what is in them."""
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?\)")


def sources() -> dict[str, str]:
    """Path in the repository → path in the site, of everything written by hand."""
    docs = ROOT / "docs"
    files = (path for path in docs.rglob("*") if path.suffix in (".md", *PICTURES))
    return {path.relative_to(ROOT).as_posix(): path.relative_to(docs).as_posix() for path in files} | OUTSIDE


def generated() -> dict[str, str]:
    """Path in the site → Markdown, of every page that is made of code or figures."""
    return {
        "reference/cli.md": make_reference.cli_page(),
        "reference/python.md": make_reference.python_page(),
        "reference/modules.md": make_reference.modules_page(),
        **{f"results/{name}": text for name, text in make_results.pages().items()},
    }


def gather(target: Path = PAGES) -> list[Path]:
    """Write every page and picture of the site below ``target``; returns what was written."""
    shutil.rmtree(target, ignore_errors=True)
    made, written = generated(), []
    places = sources() | {f"docs/{page}": page for page in made}
    for origin, page in sources().items():
        path = _place(target / page)
        if path.suffix in PICTURES:
            shutil.copyfile(ROOT / origin, path)
        else:
            path.write_text(_relinked(origin, page, places, target), encoding="utf-8")
        written.append(path)
    for page, text in made.items():
        path = _place(target / page)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    for path in (ROOT / "benchmarks").rglob("*.json"):
        shutil.copyfile(path, _place(target / "files" / path.relative_to(ROOT)))
    return written


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _relinked(origin: str, page: str, places: dict[str, str], target: Path) -> str:
    """A page whose links lead to where the site has things; files that are no pages come along."""

    def replaced(match: re.Match[str]) -> str:
        head, link, anchor = match.group(1), match.group(2), match.group(3) or ""
        if "://" in link or link.startswith("mailto:"):
            return match.group(0)
        path = os.path.normpath(Path(origin).parent / link)
        there = places.get(path) or FOLDERS.get(path) or _copied(path, target)
        return f"{head}{os.path.relpath(there, Path(page).parent)}{anchor})"

    return _LINK.sub(replaced, (ROOT / origin).read_text(encoding="utf-8"))


def _copied(path: str, target: Path) -> str:
    shutil.copyfile(ROOT / path, _place(target / "files" / path))
    return f"files/{path}"


def main(serve: bool) -> None:
    """Gather the pages and let Zensical build, or serve and rebuild on change."""
    gather()
    program = Path(sys.executable).with_name("zensical")
    subprocess.run(
        [program, "serve"] if serve else [program, "build", "--clean", "--strict"], cwd=ROOT, check=True
    )
    print(ROOT / "build" / "site" / "index.html")


if __name__ == "__main__":
    main("--serve" in sys.argv[1:])
