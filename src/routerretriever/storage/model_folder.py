"""A model on disk.

    MODEL/
      config.json, model.safetensors, tokenizer…   the plain base; ``AutoModel`` loads it
      modules.json, 1_Pooling/, …                  Sentence Transformers' files
      routerretriever.json                         format version, base, branch layer, experts, policy
      experts/NAME/adapter_*                       PEFT's format; ``PeftModel`` loads it
      experts/NAME/map.*                           the map of an expert that has one
      experts/NAME/expert.json                     what it was trained on and what it gained
      documents/                                   the base of documents, where queries have one of their own
      pilots.safetensors, pilots.json              the pilot library
      history/                                     earlier versions; see :mod:`storage.history`

This module reads and writes what is not the base's own: experts, pilots and the description of the
whole. The encoder puts the parts together, and :mod:`storage.atomic` swaps a saved folder in.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from routerretriever.errors import FingerprintError, FormatError
from routerretriever.expert_state import ExpertState
from routerretriever.lora.adapter import Adapter, Kind
from routerretriever.lora.expert_files import load_expert, save_expert
from routerretriever.lora.expert_info import BaseInfo, ExpertInfo, check_expert_name
from routerretriever.routing.pilot_files import PILOT_INFO, PILOT_TENSORS, load_pilots, save_pilots
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.validation import first_fault

MODEL_FORMAT = 4
"""The newest format: of two bases, for queries and documents. Models are written in the first one that fits."""
_WHOLE_BASE = 3
_WITH_MAPS = 2
_LAYERS_ALONE = 1
MODEL_INFO = "routerretriever.json"
ENCODER_CLASS = "routerretriever.encoder.RoutedEncoder"
"""What saved models name in ``modules.json``; older ones do so too, so it never changes."""
BODY, HEAD = "body", "head"
"""Keys of the description: a base's first module, if it is used as a whole, and the modules after it."""
DOCUMENTS = "documents"
"""Key of the description, and folder, of the base of documents where queries have one of their own."""
EXPERT_INFO = "expert.json"
EXPERTS = "experts"
STATE_FILES = (EXPERTS, PILOT_INFO, PILOT_TENSORS)
"""What every save writes or leaves out; never carried over from the folder that it replaces."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelParts:
    """What a model's folder holds besides the base's own files.

    Attributes:
        state: experts, infos and policy.
        base: the base's public name, revision and licence.
        fingerprint: of the base.
        layout: where experts begin and where the router reads.
        layers: names of the linear layers that experts may change.
        documents: the public name of the base of documents; ``None`` where ``base`` encodes them, too.
    """

    state: ExpertState
    base: BaseInfo
    fingerprint: str
    layout: Mapping[str, int]
    layers: Collection[str]
    documents: BaseInfo | None = None


# -- writing ---------------------------------------------------------------------------------------


def write_state(root: Path, parts: ModelParts, modules: Mapping[str, Any]) -> None:
    """Write experts, pilots and the description of the whole beside a base; not atomic by itself.

    Args:
        root: the model's folder, which exists.
        parts: what to write.
        modules: where the modules of the base are, and their classes.
    """
    state = parts.state
    for name in state.experts:
        write_expert(root / EXPERTS / name, parts, name)
    if state.library is not None:
        save_pilots(state.library, root, base_fingerprint=parts.fingerprint)
    info = {
        "format_version": _format_of(state, modules),
        "base": asdict(parts.base) | {"fingerprint": parts.fingerprint},
        **parts.layout,
        **modules,
        "experts": list(state.experts),
        "policy": None if state.policy is None else state.policy.settings(),
    }
    _write_json(root / MODEL_INFO, info)


def _format_of(state: ExpertState, modules: Mapping[str, Any]) -> int:
    """Return the first format that says everything of a model, so that older versions read what they can."""
    if DOCUMENTS in modules:
        return MODEL_FORMAT
    if BODY in modules:
        return _WHOLE_BASE
    if any(adapter.kind != Kind.LORA for adapter in state.experts.values()):
        return _WITH_MAPS
    return _LAYERS_ALONE


def write_expert(folder: Path, parts: ModelParts, name: str) -> None:
    """Write the weights of one expert, with what is known of it."""
    base = parts.base
    save_expert(parts.state.experts[name], folder, base=base.id, revision=base.revision)
    _write_json(folder / EXPERT_INFO, asdict(parts.state.infos[name]))


def forget_training_data(folder: Path) -> None:
    """Take out of the experts' descriptions where their training data is: it is nobody else's business."""
    for path in folder.rglob(EXPERT_INFO):
        _write_json(path, read_json(path) | {"trained_on_data": []})


# -- reading ---------------------------------------------------------------------------------------


def read_state(root: Path, info: Mapping[str, Any], layers: Collection[str], fingerprint: str) -> ExpertState:
    """Read what :func:`write_state` wrote.

    Args:
        root: the model's folder.
        info: from :func:`read_model_info`.
        layers: names of the linear layers that experts may change.
        fingerprint: of the base at hand.

    Raises:
        ExpertError: an expert's files are missing, damaged, or do not fit the layers.
        FormatError: another file is missing or damaged, or the pilots are of other experts.
        FingerprintError: the pilots are of another base.
    """
    names = [check_expert_name(name) for name in info["experts"]]
    experts: dict[str, Adapter] = {}
    infos: dict[str, ExpertInfo] = {}
    for name in names:
        experts[name] = load_expert(root / EXPERTS / name, layers)
        infos[name] = read_expert_info(root / EXPERTS / name)
    policy = read_policy(root, info["policy"], fingerprint, tuple(names))
    return ExpertState(experts=experts, infos=infos, policy=policy)


def read_policy(
    root: Path, settings: Mapping[str, Any] | None, fingerprint: str, experts: tuple[str, ...]
) -> RoutingPolicy | None:
    """Return the policy of a saved model with its pilots; ``None`` where no settings are stored.

    Raises:
        FormatError: a file is missing or damaged, or the pilots are of other experts.
        FingerprintError: the pilots are of another base.
    """
    if settings is None:
        return None
    library, library_info = load_pilots(root)
    check_fingerprint(fingerprint, library_info["base_fingerprint"], f"{root / PILOT_TENSORS}")
    if library.experts != experts:
        raise FormatError(
            f"The pilot library in {root} is of the experts {', '.join(library.experts)}, but the "
            f"model has {', '.join(experts)}. Build it again: "
            "routerretriever library MODEL COLLECTION…"
        )
    return RoutingPolicy.from_settings(settings, library)


def read_model_info(root: Path) -> dict[str, Any]:
    """Return the content of a model's ``routerretriever.json``.

    Raises:
        FormatError: it is missing, damaged, or of a newer format.
    """
    path = root / MODEL_INFO
    if not path.exists():
        raise FormatError(
            f"{root} is not a RouterRetriever model (it has no {MODEL_INFO}). Create one with: "
            f"routerretriever train {root} COLLECTION"
        )
    info = read_json(path)
    version = info.get("format_version")
    if not isinstance(version, int) or version > MODEL_FORMAT:
        raise FormatError(
            f"{path} has format {version}; this version reads up to {MODEL_FORMAT}. Upgrade routerretriever."
        )
    return info


def recorded_base(info: Mapping[str, Any]) -> BaseInfo:
    """Return the public name of a base from its description, which is a model's or that of its documents."""
    base = info["base"]
    return BaseInfo(base["id"], base["revision"], base.get("licence"))


def described_modules(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model's description says of the modules of its base."""
    return {key: info[key] for key in (BODY, HEAD, DOCUMENTS) if key in info}


def check_modules(root: Path) -> None:
    """Check that a saved model names no class from outside Sentence Transformers but ours.

    Raises:
        FormatError: it does, or ``modules.json`` is missing or damaged.
    """
    path = root / "modules.json"
    try:
        classes = [module["type"] for module in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is missing or damaged ({error}). Restore it from a copy.") from error
    foreign = [
        name for name in classes if name != ENCODER_CLASS and not name.startswith("sentence_transformers.")
    ]
    if foreign or ENCODER_CLASS not in classes:
        raise FormatError(
            f"{root} names the modules {', '.join(classes)}; only {ENCODER_CLASS} and Sentence "
            "Transformers' own are loaded. Restore modules.json."
        )


_EXPERT_INFO = TypeAdapter(ExpertInfo)


def read_expert_info(directory: Path) -> ExpertInfo:
    """Return the content of ``expert.json``, or defaults for an adapter that plain PEFT wrote.

    Raises:
        FormatError: the file is damaged.
    """
    path = directory / EXPERT_INFO
    if not path.exists():
        return ExpertInfo()
    known = set(ExpertInfo.__dataclass_fields__)
    fields = {key: value for key, value in read_json(path).items() if key in known}
    try:
        return _EXPERT_INFO.validate_python(fields)
    except ValidationError as error:
        name, given, reason = first_fault(error)
        raise FormatError(
            f"{path} is damaged: '{name}' is {given} ({reason}). Restore it from a copy."
        ) from error


def check_fingerprint(actual: str, recorded: str, what: str) -> None:
    """Compare the base at hand with the one that something was made for.

    Raises:
        FingerprintError: they differ.
    """
    if actual != recorded:
        raise FingerprintError(
            f"{what} belong to another base encoder (fingerprint {recorded[:12]}, expected "
            f"{actual[:12]}). Restore the original files, or create the model again."
        )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a model.

    Raises:
        FormatError: the file is missing or damaged, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} is damaged ({error}). Restore it from a copy.") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path} is damaged: expected a JSON object. Restore it from a copy.")
    return content
