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

import json
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import import_from_string

from routerretriever.errors import FingerprintError, FormatError, SilentExpertError
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.expert_info import BaseInfo, ExpertInfo, check_expert_name
from routerretriever.lora.peft_files import load_adapter, save_adapter
from routerretriever.routing.pilot_library import PILOT_INFO, PILOT_TENSORS, PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import make_router

if TYPE_CHECKING:
    from routerretriever.encoder.routed_encoder import RoutedEncoder


MODEL_FORMAT = 1
MODEL_INFO = "routerretriever.json"
EXPERT_INFO = "expert.json"
EXPERTS = "experts"
STATE_FILES = (EXPERTS, PILOT_INFO, PILOT_TENSORS)
"""What a save writes anew or leaves out: never carried over from the folder that it replaces."""


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
