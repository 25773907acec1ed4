"""Progress of long work: shown by the command line, silent in a library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Task(Protocol):
    """Long work whose progress is reported."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Report that ``amount`` more units are done; ``note`` replaces the text beside the bar."""


class Progress(Protocol):
    """Receives the tasks of long work."""

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        """Announce work of ``total`` units; the block is the work."""


class _SilentTask:
    def advance(self, amount: int = 1, note: str = "") -> None:
        """Report nothing."""


class Silent:
    """Progress that shows nothing, which is the default."""

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        """Announce nothing."""
        yield _SilentTask()


class Bars:
    """Progress bars with rate and remaining time on standard error, if it is a terminal."""

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        """Show one bar while the block runs."""
        if not sys.stderr.isatty() or total == 0:
            yield _SilentTask()
            return
        from rich import progress as rich_progress
        from rich.console import Console

        columns = (
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("{task.fields[rate]}"),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[note]}"),
        )
        with rich_progress.Progress(*columns, console=Console(stderr=True)) as bars:
            yield _BarTask(bars, bars.add_task(description, total=total, rate="", note=""))


class _BarTask:
    def __init__(self, bars: RichProgress, task_id: TaskID) -> None:
        self._bars = bars
        self._id = task_id

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Move the bar, and show the rate beside it."""
        self._bars.advance(self._id, amount)
        speed = self._bars.tasks[self._id].speed
        self._bars.update(self._id, rate=f"{speed:,.0f}/s" if speed else "")
        if note:
            self._bars.update(self._id, note=note)
