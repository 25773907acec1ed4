"""The source keeps the habits that ``benchmarks/style.py`` measures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "style.py"


@pytest.fixture
def style(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the script as a module."""
    spec = importlib.util.spec_from_file_location("style", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "style", module)
    spec.loader.exec_module(module)
    return module


def test_the_source_meets_every_target(style: ModuleType) -> None:
    missed = []
    total = style.joined(style.measure_files(style.SOURCE).values())
    for habit in style.habits(total):
        if not habit.met:
            places = [f"{place.where} {place.name}: {place.size}" for place in habit.places]
            missed.append(f"{habit.name}: {habit.value:.1f}, target {habit.target} {places}")
    assert not missed


def test_a_missed_target_is_reported_with_its_place(style: ModuleType) -> None:
    figures = style.Figures(lines=[100] * 10)
    figures.files.append(style.Place("long.py", "long", style.LONGEST_FILE + 1))
    missed = {habit.name: habit.places for habit in style.habits(figures) if not habit.met}
    assert set(missed) == {
        "line length, 90th percentile",
        "median file, lines",
        "files above 400 lines",
    }
    assert missed["files above 400 lines"] == figures.files
