"""How long work reports how far it is; the command line shows it, a library stays silent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One piece of long work."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """``amount`` more units are done; ``note`` replaces the text beside the bar."""


class Progress(Protocol):
    """Where tasks are reported."""

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        """Announce work of ``total`` units."""


class _SilentTask:
    def advance(self, amount: int = 1, note: str = "") -> None:
        """Report nothing."""


class Silent:
    """The default: nothing is shown."""

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        """Announce nothing."""
        yield _SilentTask()


class Bars:
    """Rich progress bars with rate and remaining time on standard error, if that is a terminal."""

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
    def __init__(self, bars: object, task_id: int) -> None:
        self._bars, self._id = bars, task_id

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Move the bar."""
        from rich.progress import Progress as RichProgress
        from rich.progress import TaskID

        assert isinstance(self._bars, RichProgress)
        task_id = TaskID(self._id)
        self._bars.advance(task_id, amount)
        speed = self._bars.tasks[self._id].speed
        fields = {"rate": f"{speed:,.0f}/s" if speed else ""}
        if note:
            fields["note"] = note
        self._bars.update(task_id, **fields)  # type: ignore[arg-type]
