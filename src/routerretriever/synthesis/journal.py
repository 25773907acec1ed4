"""The answers of a model so far: a file that only grows, so that a kill costs no answer.

The first line holds the settings that decide answers. Every other line is one passage's
answer, or a request that may be billed in vain; it counts once it is on disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from routerretriever.data.jsonl import parse_object
from routerretriever.errors import LockedError, StorageError, SynthesisError
from routerretriever.storage.atomic import sync
from routerretriever.storage.locks import lock_open_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model made of one passage.

    Attributes:
        key: of the passage.
        queries: none if the answer was unusable.
        tokens_in, tokens_out: read and written, for models that are paid by the token.
        problem: why there are no queries, or fewer than asked for.
    """

    key: str
    queries: tuple[str, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """A request that may be billed although no usable answer came back.

    Its passage is asked for again.

    Attributes:
        lost: the key of the passage.
        tokens_in, tokens_out: as the server counted them, or what was reserved.
        problem: what came instead.
    """

    lost: str
    tokens_in: int
    tokens_out: int
    problem: str


class Journal:
    """The answers of one synthesis, read from and appended to a file.

    Use :meth:`open`. ``answers`` maps the key of a passage to its answer; ``lost`` is what
    else may have been paid for.
    """

    def __init__(self, path: Path, file: IO[bytes], answers: dict[str, Answer], lost: list[Lost]) -> None:
        self.path = path
        self.answers = answers
        self.lost = lost
        self._file = file

    @property
    def paid(self) -> list[Answer | Lost]:
        """Everything that has or may have been paid for."""
        return [*self.answers.values(), *self.lost]

    @classmethod
    @contextmanager
    def open(cls, path: Path, settings: Mapping[str, Any]) -> Iterator[Journal]:
        """Read what is there, and append from now on; no other process can meanwhile.

        Raises:
            SynthesisError: another process has it open, it is damaged, or it was begun with
                other settings.
            StorageError: it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as file:
                _lock(file, path)
                yield cls(path, file, *_read(file, path, json.loads(json.dumps(settings))))
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written ({error}). Free some space, or choose another "
                "folder for the collection (--out)."
            ) from error

    def append(self, answers: Sequence[Answer]) -> None:
        """Put answers on disk, then count them."""
        for answer in answers:
            _write_line(self._file, asdict(answer))
        self._write_through()
        self.answers.update((answer.key, answer) for answer in answers)

    def lose(self, lost: Lost) -> None:
        """Put on disk that a request may have been paid for in vain."""
        _write_line(self._file, asdict(lost))
        self._write_through()
        self.lost.append(lost)

    def _write_through(self) -> None:
        self._file.flush()
        sync(self.path)


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        lock_open_file(file, path)
    except LockedError as error:
        raise SynthesisError(
            f"Another process is writing {path}. Wait for it, or choose another folder for the collection (--out)."
        ) from error


def _read(file: IO[bytes], path: Path, settings: dict[str, Any]) -> tuple[dict[str, Answer], list[Lost]]:
    file.seek(0)
    content = file.read()
    # A kill can leave half a line at the end; it is cut off, and its passage asked for again.
    whole = content.rfind(b"\n") + 1
    file.truncate(whole)
    lines = content[:whole].splitlines()
    begun, answers, lost = _parsed(lines, path) if lines else ({}, {}, [])

    if not answers and not lost and begun != settings:
        # Nothing has been paid for: begin again.
        file.truncate(0)
        _write_line(file, {"settings": settings})
        file.flush()
        sync(path)
    elif begun != settings:
        names = begun.keys() | settings.keys()
        changed = sorted(name for name in names if begun.get(name) != settings.get(name))
        raise SynthesisError(
            f"{path} was begun with other settings ({', '.join(changed)} changed). Continue "
            "with the same ones, choose another folder for the collection (--out), or delete "
            "the file and what was paid for it."
        )
    return answers, lost


def _parsed(lines: Sequence[bytes], path: Path) -> tuple[dict[str, Any], dict[str, Answer], list[Lost]]:
    """Return the settings, the answers by passage, and the lost requests."""
    answers: dict[str, Answer] = {}
    lost: list[Lost] = []
    number = 1
    try:
        settings: dict[str, Any] = parse_object(lines[0])["settings"]
        for number, line in enumerate(lines[1:], start=2):  # noqa: B007 - the error names it
            record = parse_object(line)
            if "lost" in record:
                lost.append(Lost(**record))
            else:
                answer = Answer(**{**record, "queries": tuple(record["queries"])})
                answers[answer.key] = answer
    except (ValueError, KeyError, TypeError) as error:
        raise SynthesisError(
            f"{path}, line {number} is damaged ({error}). Restore the file from a copy, or delete it to begin again."
        ) from error
    if "way" in settings:  # the first version's name of the method
        settings["method"] = settings.pop("way")
    return settings, answers, lost


def _write_line(file: IO[bytes], record: dict[str, Any]) -> None:
    file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
