"""Measure the habits of the source code and compare them with their targets.

    python benchmarks/style.py [--by-folder] [FOLDER]

Rates and line lengths count lines that are not blank; the lengths of functions and files count all their lines.
The exit status is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "routerretriever"

LONGEST_LINE = 88
COMPREHENSIONS = 25
CONDITIONALS = 12
MEDIAN_FUNCTION = 12
LONGEST_FUNCTION = 60
MEDIAN_FILE = 150
LONGEST_FILE = 400
MOST_POSITIONAL = 4

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Place:
    """A function, a call or a file, where it is and its size."""

    where: str
    name: str
    size: int


@dataclass
class Figures:
    """What was counted in some files."""

    lines: list[int] = field(default_factory=list)
    comprehensions: int = 0
    conditionals: int = 0
    files: list[Place] = field(default_factory=list)
    functions: list[Place] = field(default_factory=list)
    positional_calls: list[Place] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Add the counts of ``other`` to these."""
        self.lines += other.lines
        self.comprehensions += other.comprehensions
        self.conditionals += other.conditionals
        self.files += other.files
        self.functions += other.functions
        self.positional_calls += other.positional_calls

    def line_length(self) -> float:
        """Return the length in characters below which 90 % of the lines lie."""
        return sorted(self.lines)[len(self.lines) * 9 // 10]

    def per_thousand_lines(self, count: int) -> float:
        """Return a count per 1,000 lines that are not blank."""
        return 1000 * count / len(self.lines)

    def too_long_functions(self) -> list[Place]:
        """Return the functions above the limit, the longest first."""
        return _above(self.functions, LONGEST_FUNCTION)

    def too_long_files(self) -> list[Place]:
        """Return the files above the limit, the longest first."""
        return _above(self.files, LONGEST_FILE)


@dataclass(frozen=True)
class Habit:
    """A row of the table: a figure, its target, and the places that miss it."""

    name: str
    value: float
    target: float
    places: Sequence[Place] = ()

    @property
    def met(self) -> bool:
        """Whether the figure keeps the target."""
        return self.value <= self.target


def measure(path: Path, classes: frozenset[str]) -> Figures:
    """Count the habits of one file.

    Args:
        path: A Python file below the root of the repository.
        classes: Names of the package's own classes, for the calls with positional arguments.
    """
    text, tree = _parsed(path)
    where = path.relative_to(ROOT).as_posix()
    figures = Figures(lines=[len(line) for line in text.splitlines() if line.strip()])
    figures.files.append(Place(where, path.stem, len(text.splitlines())))

    for node in ast.walk(tree):
        if isinstance(node, _COMPREHENSIONS):
            figures.comprehensions += 1
        elif isinstance(node, ast.IfExp):
            figures.conditionals += 1
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            figures.functions.append(Place(f"{where}:{node.lineno}", node.name, length))
        elif isinstance(node, ast.Call) and len(node.args) > MOST_POSITIONAL:
            name = _called(node.func)
            if name in classes:
                place = Place(f"{where}:{node.lineno}", name, len(node.args))
                figures.positional_calls.append(place)
    return figures


def own_classes(paths: Iterable[Path]) -> frozenset[str]:
    """Return the names of all classes that the files define, and ``cls``."""
    names = {"cls"}
    for path in paths:
        _, tree = _parsed(path)
        names.update(node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return frozenset(names)


def measure_files(source: Path) -> dict[Path, Figures]:
    """Count the habits of every Python file below a folder of the repository."""
    classes = own_classes(SOURCE.rglob("*.py"))
    return {path: measure(path, classes) for path in sorted(source.rglob("*.py"))}


def joined(measured: Iterable[Figures]) -> Figures:
    """Return the counts of several files together."""
    total = Figures()
    for figures in measured:
        total.add(figures)
    return total


def habits(figures: Figures) -> list[Habit]:
    """Return the table's rows for what was counted."""
    comprehensions = figures.per_thousand_lines(figures.comprehensions)
    conditionals = figures.per_thousand_lines(figures.conditionals)
    median_function = statistics.median([place.size for place in figures.functions] or [0])
    median_file = statistics.median(place.size for place in figures.files)
    calls = figures.positional_calls
    long_functions = figures.too_long_functions()
    long_files = figures.too_long_files()
    return [
        Habit("line length, 90th percentile", figures.line_length(), LONGEST_LINE),
        Habit("comprehensions per 1,000 lines", comprehensions, COMPREHENSIONS),
        Habit("conditional expressions per 1,000 lines", conditionals, CONDITIONALS),
        Habit("own classes called with 5 or more positions", len(calls), 0, calls),
        Habit("median function, lines", median_function, MEDIAN_FUNCTION),
        Habit(f"functions above {LONGEST_FUNCTION} lines", len(long_functions), 0, long_functions),
        Habit("median file, lines", median_file, MEDIAN_FILE),
        Habit(f"files above {LONGEST_FILE} lines", len(long_files), 0, long_files),
    ]


def by_folder(measured: dict[Path, Figures], source: Path) -> Iterator[tuple[str, Figures]]:
    """Join the figures of the files of each folder of the package."""
    folders: dict[str, Figures] = defaultdict(Figures)
    for path, figures in measured.items():
        parts = path.relative_to(source).parts
        folders[parts[0] if len(parts) > 1 else "."].add(figures)
    yield from sorted(folders.items())


def count_lines(folder: str, *suffixes: str) -> int:
    """Count the lines of all files with one of the suffixes below a folder of the repository."""
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def main() -> int:
    """Print the tables and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=SOURCE, help="measure this folder only")
    parser.add_argument("--by-folder", action="store_true", help="add a table with a row for each folder")
    arguments = parser.parse_args()

    source = arguments.folder.resolve()
    measured = measure_files(source)
    rows = habits(joined(measured.values()))
    _print_habits(rows)
    if arguments.by_folder:
        _print_folders(by_folder(measured, source))
    print(f"\nlines of source {count_lines('src', '.py'):,}", end=", ")
    print(f"tests {count_lines('tests', '.py'):,}", end=", ")
    print(f"pages {count_lines('docs', '.md') + len((ROOT / 'README.md').read_text().splitlines()):,}")
    return 0 if all(row.met for row in rows) else 1


@cache
def _parsed(path: Path) -> tuple[str, ast.Module]:
    """Return the text of a Python file and its syntax tree."""
    text = path.read_text(encoding="utf-8")
    return text, ast.parse(text)


def _called(function: ast.expr) -> str:
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""


def _above(places: list[Place], limit: int) -> list[Place]:
    return sorted((place for place in places if place.size > limit), key=lambda place: -place.size)


def _print_habits(rows: list[Habit]) -> None:
    print(f"{'habit':44} {'value':>7} {'target':>7}  met")
    for row in rows:
        print(f"{row.name:44} {row.value:7.1f} {row.target:7.0f}  {'yes' if row.met else 'NO'}")
    for row in rows:
        if row.places:
            print(f"\n{row.name}:")
        for place in row.places:
            print(f"  {place.where} {place.name}: {place.size}")


def _print_folders(folders: Iterable[tuple[str, Figures]]) -> None:
    titles = ["lines", "p90", "compr.", "cond.", "calls", "func.", "long", "file", "long"]
    print(f"\n{'folder':14}" + "".join(f"{title:>8}" for title in titles))
    for name, figures in folders:
        values = [row.value for row in habits(figures)]
        print(f"{name:14}{len(figures.lines):8,}" + "".join(f"{value:8.1f}" for value in values))


if __name__ == "__main__":
    sys.exit(main())
