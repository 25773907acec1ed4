"""The lowest versions that pyproject.toml allows do work, as far as they can be installed within minutes."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

TRIED = (
    *("numpy", "scipy", "scikit-learn", "pyarrow", "pydantic", "typer", "rich", "filelock"),
    *("psutil", "jinja2", "pyyaml", "ir-measures"),
)
"""The others are pinned to each other, or take long to install."""
NOT_LINKED = {"pandas", "datasets"}
"""Extras that need newer versions of these; without them Sentence Transformers works as well."""
NO_NETWORK = ("NewConnectionError", "Temporary failure in name resolution", "No route to host")


def floors(root):
    """package → the lowest version that the project allows."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lowest = {}
    for requirement in (*project["dependencies"], *project["optional-dependencies"]["train"]):
        name, version = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,.*)?", requirement).groups()
        assert name not in lowest, f"{name} is listed twice"
        lowest[name] = version
    return lowest


def package(entry):
    return re.split(r"-\d", entry.name)[0].lower().replace("-", "_").removesuffix(".libs")


def link_the_others(own):
    """Let an environment use what this one has, unless it has a version of its own."""
    present = {package(entry) for entry in own.iterdir()} | NOT_LINKED
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if package(entry) not in present and entry.suffix != ".pth" and not entry.name.startswith("__"):
            (own / entry.name).symlink_to(entry)


def install(python, *requirements):
    command = [python, "-m", "pip", "install", "-q", "--no-deps", *requirements]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode and any(sign in done.stderr for sign in NO_NETWORK):
        pytest.skip("no network to install from")
    assert done.returncode == 0, done.stderr[-3000:]


def test_no_dependency_is_listed_twice(request):
    assert set(TRIED) <= set(floors(request.config.rootpath))


@pytest.mark.slow
def test_the_lowest_versions_work(request, tmp_path):
    root = request.config.rootpath
    lowest = floors(root)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    python = tmp_path / "venv" / "bin" / "python"
    own = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    install(python, *(f"{name}=={lowest[name]}" for name in TRIED))
    needs = next(own.glob("pydantic-*.dist-info")).joinpath("METADATA").read_text()
    install(python, *re.findall(r"Requires-Dist: (pydantic-core==[\d.]+)", needs))
    link_the_others(own)

    script = root / "tests" / "support" / "floor_script.py"
    paths = os.pathsep.join(map(str, (root / "src", script.parent)))
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [python, script, tmp_path / "work"],
        capture_output=True,
        text=True,
        timeout=170,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr[-4000:]
