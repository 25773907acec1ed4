"""What a model has answered so far: a file that only grows, so that a kill costs no answer that was written.

The first line holds the settings that decide answers; every other line is one passage's answer, on disk before it
counts.
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


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model made of one passage.

    Attributes:
        key: of the passage.
        queries: none if the answer was unusable.
        tokens_in, tokens_out: what it cost, for models that are paid by the token.
        problem: why there are no queries, or fewer than asked for.
    """

    key: str
    queries: tuple[str, ...]
    tokens_in: int = 0
    tokens_out: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """A request that may be billed although no usable answer came back; its passage is asked for again.

    Attributes:
        lost: the key of its passage.
        tokens_in, tokens_out: as the server counted them, or what was reserved for it.
        problem: what came instead.
    """

    lost: str
    tokens_in: int
    tokens_out: int
    problem: str


class Journal:
    """The answers of one generation, read from and appended to a file.

    Use :meth:`open`; ``answers`` maps a passage's key to its answer, ``lost`` is what else may have been paid for.
    """

    def __init__(self, path: Path, file: IO[bytes], answers: dict[str, Answer], lost: list[Lost]) -> None:
        self.path, self._file, self.answers, self.lost = path, file, answers, lost

    @property
    def paid(self) -> list[Answer | Lost]:
        """Everything that has or may have been paid for."""
        return [*self.answers.values(), *self.lost]

    @classmethod
    @contextmanager
    def open(cls, path: Path, settings: Mapping[str, Any]) -> Iterator[Journal]:
        """Read what is there, and append from now on; nobody else can meanwhile.

        Raises:
            SynthesisError: another process has it open, it is damaged, or it was begun with other settings.
            StorageError: it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as file:
                _lock(file, path)
                yield cls(path, file, *_read(file, path, json.loads(json.dumps(settings))))
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written ({error}). Free some space, or choose another --out."
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
        raise SynthesisError(f"Another process is writing {path}. Wait for it, or choose another --out.") from error


def _read(file: IO[bytes], path: Path, settings: dict[str, Any]) -> tuple[dict[str, Answer], list[Lost]]:
    file.seek(0)
    content = file.read()
    # A kill can leave half a line at the end; it is cut off, and its passage is asked for again.
    whole = content.rfind(b"\n") + 1
    file.truncate(whole)
    lines = content[:whole].splitlines()
    if not lines:
        _write_line(file, {"settings": settings})
        file.flush()
        sync(path)
        return {}, []
    try:
        records = [parse_object(line) for line in lines]
        begun = records[0]["settings"]
        lost = [Lost(**record) for record in records[1:] if "lost" in record]
        answers = [
            Answer(**{**record, "queries": tuple(record["queries"])}) for record in records[1:] if "lost" not in record
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise SynthesisError(
            f"{path} is damaged ({error}). Restore it from a copy, or delete it to begin again."
        ) from error
    if begun != settings and not answers and not lost:
        file.truncate(0)
        return _read(file, path, settings)
    if begun != settings:
        changed = sorted(key for key in begun.keys() | settings.keys() if begun.get(key) != settings.get(key))
        raise SynthesisError(
            f"{path} was begun with other settings ({', '.join(changed)} changed). Go on with the same ones, choose "
            "another --out, or delete the file and what was paid for it."
        )
    return {answer.key: answer for answer in answers}, lost


def _write_line(file: IO[bytes], record: dict[str, Any]) -> None:
    file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
