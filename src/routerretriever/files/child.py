"""The process that reads files: it takes paths and gives contents, one line of JSON each.

What a hostile file does to it harms nothing else: it has limits of memory, and its parent ends it when
it takes too long.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from contextlib import suppress
from typing import Any, BinaryIO

from routerretriever.files.content import Content, UnreadableFileError
from routerretriever.files.formats import READERS, suffix_of

MOST_MEMORY = 1 << 30
"""Bytes of address space."""

MOST_CHARACTERS = 20_000_000
"""Of the text of a file."""


def main() -> None:
    """Read the files whose paths come in, until there are no more."""
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _limit_memory()
    for line in sys.stdin.buffer:
        _answer(answers, _outcome(json.loads(line)))


def _answer(answers: BinaryIO, outcome: dict[str, Any]) -> None:
    answers.write(json.dumps(outcome).encode() + b"\n")
    answers.flush()


def _outcome(path: str) -> dict[str, Any]:
    digest = ""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a path may be of bytes that are no text
            data = file.read()
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        content = _read(path, data)
    except MemoryError:
        return {"problem": f"it needs more than {MOST_MEMORY >> 20} MiB of memory.", "digest": digest}
    except UnreadableFileError as error:
        return {"problem": str(error), "digest": digest}
    except OSError as error:
        return {"problem": f"it cannot be opened ({error.strerror}).", "digest": ""}
    except RecursionError:
        return {"problem": "it is nested too deeply.", "digest": digest}
    except Exception as error:  # a reader met what its format does not allow
        reason = (str(error).splitlines() or [""])[0][:200]
        problem = f"it is damaged or truncated ({type(error).__name__}: {reason})."
        return {"problem": problem, "digest": digest}
    return {"content": content.to_dict(), "digest": digest}


def _read(path: str, data: bytes) -> Content:
    if not data:
        raise UnreadableFileError("it is empty.")
    module, function = READERS[suffix_of(path)].split(":")
    reader = getattr(importlib.import_module(f"routerretriever.files.readers.{module}"), function)
    content: Content = reader(data)
    if len(content.text) > MOST_CHARACTERS:
        raise UnreadableFileError(
            f"its text has {len(content.text)} characters, over the limit of {MOST_CHARACTERS}. Divide it."
        )
    return content


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
