"""Where a module imports the package's own modules; `lint-imports` checks which of them it may import."""

import ast
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = "routerretriever"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE
WITHOUT_TORCH = ("routing", "index")  # folders that are to answer queries in an install without it
# (module, imported): what comes with an extra, which a server or an index may lack.
LATE = {
    ("opening", "model"),
    ("index.open_store", "index.postgres.store"),
    ("index.build.sources", "files.reading"),
    ("index.build.sources", "files.scan"),
    ("server.open_spans", "server.tracing"),
    ("server.uploads", "files.cache"),
    ("server.uploads", "files.formats"),
    ("server.uploads", "files.reading"),
    ("server.uploads", "files.scan"),
}


def modules():
    for path in sorted(SOURCE.rglob("*.py")):
        yield (
            ".".join(path.relative_to(SOURCE).with_suffix("").parts),
            ast.parse(path.read_text(encoding="utf-8")),
        )


def imported(tree):
    """The package's own modules that are imported anywhere below a node, by their names within the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (module_of(name) for name in names if name.split(".")[0] == PACKAGE)


def module_of(name):
    """The module that a name means: itself, or the one that defines it."""
    parts = name.split(".")[1:]
    path = SOURCE.joinpath(*parts)
    is_module = path.is_dir() or path.with_suffix(".py").is_file()
    return ".".join(parts if is_module else parts[:-1])


def in_functions(tree):
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {name for function in functions for name in imported(function)}


def test_only_the_command_line_imports_the_package_inside_functions():
    """It does so because each costs the start of the command line; everything else shows its imports at the top."""
    found = {
        (name, other)
        for name, tree in modules()
        if name.split(".")[0] != "cli"
        for other in in_functions(tree)
    }
    assert found == LATE


def test_routing_and_index_import_no_torch():
    names = [name.removesuffix(".__init__") for name, _ in modules() if name.split(".")[0] in WITHOUT_TORCH]
    assert len(names) > 30
    program = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(f"{PACKAGE}.{{name}}")
    assert "torch" not in sys.modules, f"{{name}} imports torch"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_imports_from_a_folder_that_it_is_in():
    """The ``__init__`` of a folder imports from its modules; the way back would be a circle."""
    for name, tree in modules():
        parts = name.split(".")
        folders = {".".join(parts[:depth]) for depth in range(len(parts))}
        assert folders.isdisjoint(imported(tree)), name


def test_what_docstrings_and_pages_name_is_there():
    """A dotted name that begins with the package's leads to a module, a folder, or a name in one of them."""
    files = [*SOURCE.rglob("*.py"), *SOURCE.parents[1].glob("docs/**/*.md"), SOURCE.parents[1] / "README.md"]
    ours = {
        "json",
        "server",
        "build",
        "kind",
        "keeps_words",
    }  # a file, a logger, and keys that files already hold
    for path in files:
        for name in re.findall(r"\brouterretriever((?:\.[a-z_]\w*)+)", path.read_text(encoding="utf-8")):
            first = name.split(".")[1]
            is_there = (SOURCE / first).is_dir() or (SOURCE / f"{first}.py").is_file()
            assert is_there or first in ours, (path.name, name)
            parts = name.split(".")[1:]
            if is_there and (SOURCE / first).is_dir() and len(parts) > 1:
                inside = SOURCE.joinpath(*parts[:2])
                known = inside.is_dir() or inside.with_suffix(".py").is_file()
                text = (SOURCE / first / "__init__.py").read_text(encoding="utf-8")
                assert known or parts[1] in text, (path.name, name)
