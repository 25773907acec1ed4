"""A model on disk.

    MODEL/
      config.json, model.safetensors, tokenizer…   the plain base; ``AutoModel`` loads it
      modules.json, 1_Pooling/, …                  Sentence Transformers' files
      routerretriever.json                         format version, base, branch layer, experts, policy
      experts/NAME/adapter_*                       PEFT's format; ``PeftModel`` loads it
      experts/NAME/expert.json                     what it was trained on and what it gained
      pilots.safetensors, pilots.json              the pilot library
      history/                                     what it was before; see :mod:`routerretriever.history`

A model is written to a folder beside the target and swapped in at the end, so that a kill or a full
disk leaves the old model whole.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import re
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import import_from_string

from routerretriever.errors import ExpertError, FingerprintError, FormatError, SilentExpertError, StorageError
from routerretriever.lora import Adapter, load_adapter, save_adapter
from routerretriever.pilots import PILOT_TENSORS, PilotLibrary
from routerretriever.routing import RoutingPolicy, make_router

try:
    import fcntl

    HAS_LOCKS = True
except ImportError:  # Windows: leftovers stay
    HAS_LOCKS = False

if TYPE_CHECKING:
    from routerretriever.encoder import RoutedEncoder

MODEL_FORMAT = 1
MODEL_INFO = "routerretriever.json"
EXPERT_INFO = "expert.json"
EXPERTS = "experts"
_STAGING = ".tmp"
LOCK_SECONDS = 30.0
"""How long a change of a model waits for another."""
RESERVED_NAMES = ("base", "merged", "routed")


@dataclass(frozen=True, slots=True)
class ExpertInfo:
    """What is known of an expert besides its weights.

    Attributes:
        collection: what it was trained on; empty for an imported one.
        queries: number of training queries.
        held_out: number of queries the gain was measured on.
        base_ndcg, expert_ndcg: mean nDCG@10 on those.
        config: how it was trained.
        generated: way → training queries that were made in this way instead of asked by somebody.
        data_licence: of what it was trained on, as hubs abbreviate it; empty where nobody stated it.
        source: the collections whose documents those queries were made from, where that is known.
        held_out_generated: so many of the held-out queries were made, too; ``None`` where that was not recorded.
    """

    collection: str = ""
    queries: int = 0
    held_out: int = 0
    base_ndcg: float = 0.0
    expert_ndcg: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    generated: dict[str, int] = field(default_factory=dict)
    data_licence: str = ""
    source: str = ""
    held_out_generated: int | None = None

    @property
    def trained_on(self) -> str:
        """What it was trained on, for people."""
        made = f" (queries generated from {self.source})" if self.source else " (generated queries)"
        return f"{self.collection or 'imported'}{made if self.generated else ''}"

    @property
    def gain_on_generated(self) -> bool:
        """Whether its gain was measured on generated queries, or on such among others."""
        return bool(self.generated) if self.held_out_generated is None else self.held_out_generated > 0

    @property
    def gain(self) -> float:
        """Held-out nDCG@10 over the base."""
        return self.expert_ndcg - self.base_ndcg


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """The base's public name, where a local path never stands, and the licence that its own card states."""

    id: str
    revision: str | None = None
    licence: str | None = None


def check_expert_name(name: str) -> str:
    """A name that can be a folder and is not one of the fixed candidates.

    Raises:
        ExpertError: it cannot be used.
    """
    if name in RESERVED_NAMES or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ExpertError(
            f"'{name}' cannot be an expert's name. Use letters, digits, '.', '_' and '-', and none of: "
            f"{', '.join(RESERVED_NAMES)}."
        )
    return name


def write_encoder(encoder: RoutedEncoder, path: str | Path) -> None:
    """Write base, experts and pilots into a folder; the caller makes it atomic."""
    root = Path(path)
    write_experts(encoder, root, _write_base(encoder, root))


def _write_base(encoder: RoutedEncoder, root: Path) -> list[dict[str, str]]:
    """Write what never changes, and say where the modules after the transformer are."""
    encoder.transformer.save(str(root))
    head = []
    for number, module in enumerate(encoder.head, start=1):
        folder = f"{number}_{type(module).__name__}"
        (root / folder).mkdir(exist_ok=True)
        module.save(str(root / folder))  # type: ignore[operator]
        head.append({"path": folder, "type": f"{type(module).__module__}.{type(module).__name__}"})
    return head


def write_experts(encoder: RoutedEncoder, root: Path, head: list[dict[str, str]]) -> None:
    """Write experts, pilots and the description of the whole beside a base that is there."""
    for name in encoder.experts:
        write_expert(encoder, name, root / EXPERTS / name)
    policy = encoder.policy
    if policy is not None:
        policy.router.library.save(root, base_fingerprint=encoder.fingerprint)
    info = {
        "format_version": MODEL_FORMAT,
        "base": asdict(encoder.base) | {"fingerprint": encoder.fingerprint},
        **encoder.get_config_dict(),
        "head": head,
        "experts": list(encoder.experts),
        "policy": policy.settings() if policy is not None else None,
    }
    _write_json(root / MODEL_INFO, info)


def write_expert(encoder: RoutedEncoder, name: str, folder: Path) -> None:
    """Write one expert in PEFT's format, with what is known of it."""
    save_adapter(encoder.experts[name], folder, base=encoder.base.id, revision=encoder.base.revision)
    _write_json(folder / EXPERT_INFO, asdict(encoder.expert_info[name]))


def read_encoder(kind: type[RoutedEncoder], source: str, **kwargs: Any) -> RoutedEncoder:
    """Read what :func:`write_encoder` wrote, and check it.

    Raises:
        FormatError: a file is missing, damaged, or of a newer format.
        FingerprintError: base, experts and pilots do not belong together.
        SilentExpertError: an expert changes nothing.
    """
    root = Path(source) if Path(source).is_dir() else _download(source, kwargs)
    info = read_model_info(root)
    kwargs.pop("subfolder", None)
    encoder = read_base(kind, root, info, **kwargs)
    check_fingerprint(encoder.fingerprint, info["base"]["fingerprint"], f"The base weights in {root}")
    experts: OrderedDict[str, Adapter] = OrderedDict()
    for name in info["experts"]:
        experts[name] = load_adapter(root / EXPERTS / check_expert_name(name), encoder.lora_layers)
        encoder.expert_info[name] = read_expert_info(root / EXPERTS / name)
    encoder.set_experts(experts)
    if silent := encoder.silent_experts():
        raise SilentExpertError(
            f"The experts {', '.join(silent)} in {root} change no query vector: their weights are zero "
            "or damaged. Train or import them again."
        )
    if info["policy"] is not None:
        encoder.policy = read_policy(root, info["policy"], encoder.fingerprint, tuple(encoder.experts))
    return encoder


def read_base(kind: type[RoutedEncoder], root: Path, info: dict[str, Any], **kwargs: Any) -> RoutedEncoder:
    """The base of a model without its experts; whether it is the right one is for the caller to check."""
    transformer = Transformer.load(str(root), **kwargs)
    encoder = kind(
        transformer, [_load_module(root, part) for part in info["head"]], info["branch_layer"], info["route_layer"]
    )
    encoder.base = BaseInfo(info["base"]["id"], info["base"]["revision"], info["base"].get("licence"))
    return encoder


def _load_module(root: Path, part: dict[str, str]) -> Any:
    if not part["type"].startswith("sentence_transformers."):
        raise FormatError(f"{root / MODEL_INFO} names the module {part['type']}, which is not loaded. Restore it.")
    kind: Any = import_from_string(part["type"])
    return kind.load(str(root / part["path"]))


def read_policy(root: Path, settings: dict[str, Any], fingerprint: str, experts: tuple[str, ...]) -> RoutingPolicy:
    """The policy of a saved model, with its pilots.

    Raises:
        FormatError: a file is missing or damaged, or the pilots are of other experts.
        FingerprintError: the pilots are of another base.
    """
    library, library_info = PilotLibrary.load(root)
    check_fingerprint(fingerprint, library_info["base_fingerprint"], f"{root / PILOT_TENSORS}")
    if library.experts != experts:
        raise FormatError(
            f"The pilot library in {root} knows the experts {', '.join(library.experts)}, the model has "
            f"{', '.join(experts)}. Build it again: routerretriever library MODEL COLLECTION…"
        )
    settings = dict(settings)
    router = make_router(settings.pop("router"), library, **settings.pop("router_settings"))
    return RoutingPolicy(router, **settings)


def read_model_info(root: Path) -> dict[str, Any]:
    """``routerretriever.json`` of a model.

    Raises:
        FormatError: it is missing, damaged, or of a newer format.
    """
    path = root / MODEL_INFO
    if not path.exists():
        raise FormatError(
            f"{root} is not a RouterRetriever model (it has no {MODEL_INFO}). Create one with: "
            f"routerretriever train {root} COLLECTION"
        )
    info = _read_json(path)
    version = info.get("format_version")
    if not isinstance(version, int) or version > MODEL_FORMAT:
        raise FormatError(
            f"{path} has format {version}, this version reads up to {MODEL_FORMAT}. Upgrade routerretriever."
        )
    return info


def read_expert_info(directory: Path) -> ExpertInfo:
    """``expert.json``, or defaults for an adapter that plain PEFT wrote."""
    path = directory / EXPERT_INFO
    if not path.exists():
        return ExpertInfo()
    known = set(ExpertInfo.__dataclass_fields__)
    return ExpertInfo(**{key: value for key, value in _read_json(path).items() if key in known})


def check_fingerprint(actual: str, recorded: str, what: str) -> None:
    """Compare the base at hand with the one something was made for.

    Raises:
        FingerprintError: they differ.
    """
    if actual != recorded:
        raise FingerprintError(
            f"{what} belong to another base encoder (fingerprint {recorded[:12]}, expected {actual[:12]}). "
            "Restore the original files, or create the model again."
        )


def _download(source: str, kwargs: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            source,
            revision=kwargs.get("revision"),
            cache_dir=kwargs.get("cache_folder"),
            token=kwargs.get("token"),
            local_files_only=kwargs.get("local_files_only", False),
        )
    )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} is damaged ({error}). Restore it from a copy.") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path} is damaged: expected a JSON object. Restore it from a copy.")
    return content


# -- atomic replacement ----------------------------------------------------------------------------


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A fresh folder that takes the place of ``target`` when the block ends well.

    Files of ``target`` that the block did not write (a user's notes, ``.git``) are carried over.

    Raises:
        StorageError: the disk is full or the folder is not writable; ``target`` is as it was.
    """
    target = target.resolve()
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_STAGING, dir=target.parent))
        with _locked(staging):
            yield staging
            staging.chmod(0o755)
            _carry_over(target, staging)
            _sync_tree(staging)
            _swap(staging, target)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise StorageError(f"{target} could not be saved: {reason}. What stood there is unchanged.") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def append_line(path: Path, line: bytes, most: int) -> bool:
    """Append a line to a file that only its owner may read; ``False`` if that would make it larger than ``most``.

    Raises:
        StorageError: it could not be written; no half of a line is left there.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            if before + len(line) + 1 > most:
                return False
            try:
                if file.write(line + b"\n") <= len(line):
                    raise OSError(errno.ENOSPC, "the disk is full")
            except OSError:
                os.ftruncate(file.fileno(), before)
                raise
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error
    return True


def lock_file(model: Path) -> Path:
    """What a process locks while it reads a model, changes it, and saves it again; it stays when it is unlocked."""
    target = model.expanduser().resolve()
    return target.with_name(f".{target.name}.lock")


@contextmanager
def changing(model: Path) -> Iterator[None]:
    """Hold a model against servers that change its experts, from before it is read until it has been saved.

    Raises:
        StorageError: the lock file cannot be written, or another process holds it for too long.
    """
    lock = FileLock(lock_file(model), timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise StorageError(f"Another process is changing {model}. Try again when it has finished.") from error
    except OSError as error:
        raise StorageError(f"{model} cannot be changed: {error}") from error
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(target: Path) -> None:
    """Delete what saves of ``target`` left behind when they were killed; one still at work holds a lock."""
    target = target.resolve()
    if not HAS_LOCKS:
        return
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*{_STAGING}"):
        with suppress(OSError), _locked(leftover):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the only lock on a folder; it ends with the process, however that ends.

    Raises:
        BlockingIOError: another holds it.
    """
    if not HAS_LOCKS:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _carry_over(target: Path, staging: Path) -> None:
    if not target.is_dir():
        return
    for entry in target.iterdir():
        if (staging / entry.name).exists() or entry.name in (EXPERTS, "pilots.json", PILOT_TENSORS):
            continue
        if entry.is_dir():
            shutil.copytree(entry, staging / entry.name, symlinks=True, copy_function=link_or_copy)
        else:
            link_or_copy(str(entry), str(staging / entry.name))


def link_or_copy(source: str, destination: str) -> None:
    """Give a file a second name, where the system can; nothing may write to either in place."""
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, destination, follow_symlinks=False)


def _sync_tree(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for name in (*files, "."):
            with suppress(OSError):  # some file systems cannot sync folders
                descriptor = os.open(Path(folder, name), os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)


def _swap(staging: Path, target: Path) -> None:
    """Put ``staging`` in the place of ``target`` in one step where the system can."""
    if not target.exists():
        staging.rename(target)
        return
    if _exchange(staging, target):
        return
    old = staging.with_name(staging.name + ".old")
    target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Linux's atomic exchange of two paths; Python has no name for it."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        at_fdcwd, rename_exchange = -100, 2
        result = libc.renameat2(at_fdcwd, os.fsencode(first), at_fdcwd, os.fsencode(second), rename_exchange)
        return bool(result == 0)
    return False
