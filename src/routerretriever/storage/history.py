"""The versions of a model's folder: a log of what was added, removed, renamed and measured, and the way back.

    MODEL/history/log.jsonl       an entry a line: time, actions, fingerprints, figures, and the files of that state
    MODEL/history/files/DIGEST    those files, each content once

An entry is written by the save that makes it, into the same staged folder, so that state and log change in one step.
The base is not kept: it never changes. Files are kept as copies, so that damage to the model leaves them whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from routerretriever.errors import FingerprintError, FormatError, HistoryError, RouterRetrieverError
from routerretriever.lora.expert_files import load_expert
from routerretriever.routing.pilot_files import PILOT_INFO, PILOT_TENSORS, load_pilots
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.storage.atomic import link_or_copy, replacing
from routerretriever.storage.history_entry import Entry, actions_between
from routerretriever.storage.model_folder import EXPERTS, MODEL_INFO, STATE_FILES, ModelParts, read_model_info

HISTORY, LOG, FILES = "history", "log.jsonl", "files"
CARD = "README.md"
_DIGITS = 6  # of gains in the log


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning dropped: files, their bytes, and the entries that can no longer be returned to."""

    files: int
    bytes: int
    entries: tuple[int, ...]


class History:
    """The versions of the model in a folder.

    Args:
        path: of the model.

    Raises:
        HistoryError: the log is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path).expanduser()
        self.folder = self.root / HISTORY
        self.entries = _read_log(self.folder / LOG)

    def __getitem__(self, number: int) -> Entry:
        """Return the entry with this number.

        Raises:
            HistoryError: there is no such entry.
        """
        for entry in self.entries:
            if entry.number == number:
                return entry
        known = "The next save starts one"
        if self.entries:
            known = f"Choose an entry from 1 to {self.entries[-1].number}"
        raise HistoryError(
            f"The history of {self.root} has no entry {number}. {known}. List the entries with: "
            "routerretriever experts log MODEL"
        )

    def size(self) -> int:
        """Return the size of the kept files in bytes."""
        return sum(file.stat().st_size for file in self._kept())

    def missing(self, entry: Entry) -> list[str]:
        """Return the files of an entry that are no longer kept."""
        return [path for path, digest in entry.files.items() if not (self.folder / FILES / digest).exists()]

    def prune(self, keep: int) -> Pruned:
        """Delete files that only older entries need; the log itself is not shortened.

        Args:
            keep: number of newest entries whose files are kept; at least 1.
        """
        if keep < 1:
            raise HistoryError("The newest entry is the current state of the model: keep at least 1 entry.")
        needed: set[str] = set()
        for entry in self.entries[-keep:]:
            needed.update(entry.files.values())
        before = [entry for entry in self.entries if not self.missing(entry)]

        # Sizes are read before anything is deleted.
        sizes: dict[Path, int] = {}
        for file in self._kept():
            if file.name not in needed:
                sizes[file] = file.stat().st_size
        for file in sizes:
            file.unlink(missing_ok=True)

        gone = tuple(entry.number for entry in before if self.missing(entry))
        return Pruned(len(sizes), sum(sizes.values()), gone)

    def rollback(self, number: int) -> Entry:
        """Restore the experts, pilots and card of an entry, bit for bit, and log that.

        This works even if the model cannot be loaded. The state before it is an entry, too, so it can be
        undone.

        Raises:
            HistoryError: there is no such entry, or its files were pruned or damaged.
            FingerprintError: the model has had another base since then.
            StorageError: it could not be written; the saved model is unchanged.
        """
        entry, last = self[number], self.entries[-1]
        if entry.base != last.base:
            raise FingerprintError(
                f"Entry {number} belongs to another base encoder (fingerprint {entry.base[:12]}, the model has "
                f"{last.base[:12]}), whose weights are not kept. Create a model with that base to use its experts."
            )
        self._check_files(entry)
        new = replace(
            entry,
            number=last.number + 1,
            time=_now(),
            actions=({"what": "rolled back", "to": number},),
        )
        with replacing(self.root, renewed=STATE_FILES) as staging:
            for path, digest in entry.files.items():
                (staging / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / FILES / digest, staging / path)
            _write(staging, self.folder, [*self.entries, new])
        self.entries.append(new)
        return new

    def _kept(self) -> list[Path]:
        folder = self.folder / FILES
        if not folder.is_dir():
            return []
        return sorted(folder.iterdir())

    def _check_files(self, entry: Entry) -> None:
        if missing := self.missing(entry):
            whole = [str(other.number) for other in self.entries if not self.missing(other)]
            raise HistoryError(
                f"{len(missing)} files of entry {entry.number} were pruned, the first is {missing[0]}. Entries "
                f"that can be restored: {', '.join(whole) or 'none'}."
            )
        for path, digest in entry.files.items():
            if _digest(self.folder / FILES / digest) != digest:
                raise HistoryError(
                    f"The kept copy of {path} of entry {entry.number} is damaged ({self.folder / FILES / digest}). "
                    "Restore the file from a copy, or roll back to another entry."
                )


@contextmanager
def recording(target: Path, parts: ModelParts) -> Iterator[Path]:
    """As :func:`routerretriever.storage.atomic.replacing`, with an entry of the history where anything changed.

    Raises:
        HistoryError: the log at ``target`` is damaged; nothing is written.
        StorageError: the disk is full or the folder is not writable; ``target`` is as it was.
    """
    target = target.resolve()
    with replacing(target, renewed=STATE_FILES) as staging:
        yield staging
        entries = History(target).entries
        known, files = len(entries), state_files(staging)
        if not entries and (target / MODEL_INFO).exists():  # written before there was a history
            entries = [_found(target, parts.layers)]
            _store(target, staging / HISTORY, entries[0].files)
        last = entries[-1] if entries else None
        if (
            last is None
            or last.base != parts.fingerprint
            or _without_card(files) != _without_card(last.files)
        ):
            entries.append(_entry(parts, files, last))
            _store(staging, staging / HISTORY, files)
        if len(entries) > known:
            _write(staging, target / HISTORY, entries)


def state_files(root: Path) -> dict[str, str]:
    """Path → digest of the files that experts, pilots and card are."""
    paths = [root / name for name in (MODEL_INFO, CARD, PILOT_INFO, PILOT_TENSORS)]
    if (root / EXPERTS).is_dir():
        paths += sorted((root / EXPERTS).rglob("*"))
    return {path.relative_to(root).as_posix(): _digest(path) for path in paths if path.is_file()}


def _entry(parts: ModelParts, files: Mapping[str, str], last: Entry | None) -> Entry:
    library = parts.state.library
    entry = Entry(
        number=1,
        time=_now(),
        actions=(),
        base=parts.fingerprint,
        experts=parts.state.versions,
        gains=_gains(library),
        files=files,
    )
    if last is not None:
        entry = replace(entry, number=last.number + 1)

    generated: Container[str] = ()
    if library is not None:
        generated = library.generated
    actions = actions_between(last, entry, parts.state.infos, generated)

    # What concerns the whole model comes first.
    if last is None:
        actions.insert(0, {"what": "created", "base": parts.base.id})
    elif last.base != entry.base:
        actions.insert(0, {"what": "base", "base": parts.base.id, "was": last.base})
    if not actions and last is not None:
        changed = {path for path, _ in files.items() ^ last.files.items()} - {CARD}
        actions = [{"what": "changed", "files": sorted(changed)}]
    return replace(entry, actions=tuple(actions))


def _gains(library: PilotLibrary | None) -> dict[str, dict[str, float]]:
    if library is None:
        return {}
    gains: dict[str, dict[str, float]] = {}
    for collection, means in library.mean_gains().items():
        gains[collection] = {}
        for name, mean in zip(library.experts, means, strict=True):
            if not math.isnan(mean):
                gains[collection][name] = round(float(mean), _DIGITS)
    return gains


def _found(root: Path, layers: Collection[str]) -> Entry:
    """What stood in a folder that has no history yet."""
    try:
        info = read_model_info(root)
        base, names = info["base"]["fingerprint"], info["experts"]
    except (FormatError, KeyError, TypeError):
        base, names = "", []
    experts = {name: _version(root / EXPERTS / name, layers) for name in names}
    gains: dict[str, dict[str, float]] = {}
    if (root / PILOT_INFO).exists():
        with suppress(RouterRetrieverError):
            gains = _gains(load_pilots(root)[0])
    return Entry(
        number=1,
        time=_now(),
        actions=({"what": "found", "experts": list(names)},),
        base=base,
        experts=experts,
        gains=gains,
        files=state_files(root),
    )


def _version(folder: Path, layers: Collection[str]) -> str | None:
    try:
        return load_expert(folder, layers).fingerprint
    except RouterRetrieverError:
        return None


def _store(root: Path, history: Path, files: Mapping[str, str]) -> None:
    (history / FILES).mkdir(parents=True, exist_ok=True)
    for path, digest in files.items():
        if not (history / FILES / digest).exists():
            shutil.copyfile(root / path, history / FILES / digest)


def _write(staging: Path, before: Path, entries: Sequence[Entry]) -> None:
    """Add the files kept so far and the log to a staged model."""
    folder = staging / HISTORY
    (folder / FILES).mkdir(parents=True, exist_ok=True)
    kept = before / FILES
    if kept.is_dir():
        for file in kept.iterdir():
            if not (folder / FILES / file.name).exists():
                link_or_copy(str(file), str(folder / FILES / file.name))

    with (folder / LOG).open("w", encoding="utf-8") as log:
        for entry in entries:
            log.write(json.dumps(entry.to_dict(), ensure_ascii=False) + "\n")


def _read_log(path: Path) -> list[Entry]:
    if not path.exists():
        return []
    entries: list[Entry] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            entries.append(Entry(**record | {"actions": tuple(record["actions"])}))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HistoryError(
            f"{path}, line {len(entries) + 1} is damaged ({error}). Restore it from a copy, or move the folder "
            f"'{HISTORY}' away: the next save then starts a new log."
        ) from error
    return entries


def _without_card(files: Mapping[str, str]) -> dict[str, str]:
    return {path: digest for path, digest in files.items() if path != CARD}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
