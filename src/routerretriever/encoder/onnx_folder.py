"""Open a folder that an ONNX exporter wrote, as a Sentence Transformers model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import import_from_string
from tokenizers import Tokenizer
from torch import nn

from routerretriever.encoder.base_files import TRUSTED
from routerretriever.encoder.onnx_encoder import OnnxEncoder
from routerretriever.encoder.silent import PROBES
from routerretriever.encoder.text_tokenizer import TokenizerInfo
from routerretriever.encoder.token_graph import GRAPH, OF_TEXTS, OF_TOKENS, TOKENIZER, OnnxInfo, opened
from routerretriever.errors import FormatError, ModelError
from routerretriever.storage.model_folder import read_json

_FURTHER = "onnx"
"""Folder of the graphs in what Sentence Transformers and Optimum publish."""
_LONGEST = 1_000_000
"""transformers writes 1e30 where a tokeniser has no longest input."""
_POOLING = "1_Pooling/config.json"


def onnx_file(base: str | Path) -> Path | None:
    """Return the graph that a base is to be read from; ``None`` for a base of torch's or of another kind.

    Args:
        base: an ``.onnx`` file, or a folder without weights for torch that has ``model.onnx`` or
            ``onnx/model.onnx``.

    Raises:
        ModelError: a folder has graphs of other names alone, so that one has to be named.
    """
    path = Path(base).expanduser()
    if path.suffix == ".onnx" and path.is_file():
        return path
    weights = ("model*.safetensors", "pytorch_model*.bin", "0_*/*.safetensors", "0_*/*.bin")
    if not path.is_dir() or any(any(path.glob(pattern)) for pattern in weights):
        return None
    for found in (path / GRAPH, path / _FURTHER / GRAPH):
        if found.is_file():
            return found
    others = [str(file) for file in sorted([*path.glob("*.onnx"), *path.glob(f"{_FURTHER}/*.onnx")])]
    if others:
        raise ModelError(
            f"{path} has no {GRAPH}. Name the graph itself as the base, one of: {', '.join(others)}."
        )
    return None


def onnx_root(graph: Path) -> Path:
    """Return the folder of the files that describe a graph: its own, or as on the hub the one above ``onnx/``."""
    own = graph.parent
    describes_itself = (own / "modules.json").exists() or (own / _POOLING).exists()
    return own.parent if own.name == _FURTHER and not describes_itself else own


def load_onnx(graph: Path) -> SentenceTransformer:
    """Open a graph with the tokeniser and the settings beside it, and try it.

    Raises:
        FormatError: a file is missing or damaged.
        ModelError: the graph reads or gives something else than is expected, or nothing says how it is pooled.
    """
    root = onnx_root(graph)
    tokenizer = next((file for file in (graph.parent / TOKENIZER, root / TOKENIZER) if file.is_file()), None)
    if tokenizer is None:
        raise FormatError(
            f"There is no {TOKENIZER} beside {graph}. Put the tokeniser's there: AutoTokenizer.from_pretrained(…)"
            ".save_pretrained(FOLDER) writes one."
        )
    head = _modules(root)
    output = _chosen_output(graph, has_pooling=any(isinstance(module, Pooling) for module in head))
    if output in OF_TEXTS:
        head = []  # the graph holds what comes after the tokens, too
    info = OnnxInfo(output=output, tokenizer=_reading(tokenizer, root))
    body = OnnxEncoder(graph, tokenizer, info)
    _try(body, head, root)
    settings = _json(root / "config_sentence_transformers.json")
    return SentenceTransformer(
        modules=[body, *head],
        device="cpu",
        prompts=settings.get("prompts") or {},
        default_prompt_name=settings.get("default_prompt_name"),
        similarity_fn_name=settings.get("similarity_fn_name"),
        truncate_dim=settings.get("truncate_dim"),
    )


def _modules(root: Path) -> list[nn.Module]:
    """Return the modules after the first one: those of ``modules.json``, else the pooling if it is described."""
    if not (root / "modules.json").exists():
        if not (root / _POOLING).exists():
            return []
        return [Pooling.load(str((root / _POOLING).parent))]
    path = root / "modules.json"
    try:
        parts = [
            (str(part["type"]), root / str(part["path"])) for part in json.loads(path.read_text("utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is damaged ({error}). Restore it from a copy.") from error
    found: list[nn.Module] = []
    for name, folder in parts[1:]:
        if not name.startswith(TRUSTED):
            raise ModelError(
                f"{path} names the module {name}, which is not loaded. Use a base of Sentence "
                "Transformers' own modules."
            )
        kind: Any = import_from_string(name)
        try:
            found.append(kind.load(str(folder)))
        except Exception as error:  # files of others' make: each module raises its own kinds
            raise FormatError(f"The module in {folder} cannot be loaded ({error}). Restore it.") from error
    return found


def _chosen_output(graph: Path, *, has_pooling: bool) -> str:
    """Return the output that is read: vectors of tokens where something pools them, else those of texts.

    Raises:
        ModelError: there is none, or nothing says how the vectors of tokens are pooled.
    """
    outputs = opened(graph).outputs
    tokens = next((name for name in OF_TOKENS if name in outputs), None)
    texts = next((name for name in OF_TEXTS if name in outputs), None)
    if tokens is not None and has_pooling:
        return tokens
    if texts is not None:
        return texts
    if tokens is not None:
        raise ModelError(
            f"Nothing says how the vectors of tokens that {graph} gives become one. Write it into "
            f'{onnx_root(graph) / _POOLING}, for example {{"embedding_dimension": 384, "pooling_mode": "mean"}}; the '
            f"modes are {', '.join(Pooling.POOLING_MODES)}, and the model's card says which it was trained with."
        )
    raise ModelError(
        f"{graph} gives {', '.join(outputs)}; one of {', '.join((*OF_TOKENS, *OF_TEXTS))} is expected. Export it again "
        "for feature extraction."
    )


def _reading(path: Path, root: Path) -> TokenizerInfo:
    """Return how texts are read, from the files around a tokeniser.

    Raises:
        FormatError: the tokeniser is damaged.
        ModelError: it has no token to pad with, or something is asked for that is not done here.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower kind
        raise FormatError(f"The tokeniser {path} cannot be read ({error}). Restore it.") from error
    content, settings = _json(path), _json(root / "tokenizer_config.json")
    transformer, config = _json(root / "sentence_bert_config.json"), _json(root / "config.json")
    if transformer.get("do_lower_case"):
        raise ModelError(
            f"{root / 'sentence_bert_config.json'} asks for lower case (do_lower_case), which is not done here. Set it "
            f"to false, and add a Lowercase normalizer to {path} if it has none."
        )
    if any(any(tokenizer.encode(text).type_ids) for text in PROBES):
        raise ModelError(
            f"The tokeniser {path} gives token types other than 0, which graphs are not given here."
        )

    special = [token["id"] for token in content.get("added_tokens") or [] if token.get("special")]
    unknown = (content.get("model") or {}).get("unk_token")
    excluded = None if unknown is None else tokenizer.token_to_id(unknown)
    return TokenizerInfo(
        pad_id=_pad_id(path, tokenizer, content, [settings, _json(root / "special_tokens_map.json")], config),
        special_ids=tuple(sorted(set(special) - {excluded})),
        max_seq_length=_longest(transformer, settings, content, config, root),
        truncation_side=settings.get("truncation_side") or "right",
    )


def _pad_id(
    path: Path,
    tokenizer: Tokenizer,
    content: dict[str, Any],
    named: Sequence[dict[str, Any]],
    config: dict[str, Any],
) -> int:
    for settings in named:
        token = settings.get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        number = None if token is None else tokenizer.token_to_id(token)
        if number is not None:
            return int(number)
    for number in ((content.get("padding") or {}).get("pad_id"), config.get("pad_token_id")):
        if isinstance(number, int):
            return number
    raise ModelError(
        f"The tokeniser {path} has no pad token, so texts cannot share a batch. Set pad_token in "
        "tokenizer_config.json beside it, for example to its eos_token."
    )


def _longest(
    transformer: dict[str, Any],
    settings: dict[str, Any],
    content: dict[str, Any],
    config: dict[str, Any],
    root: Path,
) -> int | None:
    places = config.get("max_position_embeddings")
    stated = transformer.get("max_seq_length")
    if stated and places and stated > places:
        raise ModelError(
            f"{root / 'sentence_bert_config.json'} asks for {stated} tokens (max_seq_length), but the base has places "
            f"for {places}. Lower it."
        )
    further = (settings.get("model_max_length"), (content.get("truncation") or {}).get("max_length"), places)
    for length in (stated, *further):
        if isinstance(length, int | float) and 0 < length < _LONGEST:
            return int(length)
    return None


def _try(body: OnnxEncoder, head: Sequence[nn.Module], root: Path) -> None:
    """Encode some texts, so that what does not fit is found now.

    Raises:
        ModelError: it does not.
    """
    read = body.preprocess(["a", *PROBES])
    features = body(dict(read))
    name = body.info.output
    found = "a vector for each text" if "sentence_embedding" in features else "a vector for each token"
    if (name in OF_TEXTS) != ("sentence_embedding" in features):
        raise ModelError(
            f"The output '{name}' of {body.graph.path} is {found}. Export it again under its usual name."
        )
    for module in head:
        if (
            isinstance(module, Pooling)
            and module.embedding_dimension != features["token_embeddings"].shape[-1]
        ):
            raise ModelError(
                f"The pooling in {root} is of {module.embedding_dimension} numbers, but vectors of tokens have "
                f"{features['token_embeddings'].shape[-1]}. Correct embedding_dimension in its config.json."
            )
        try:
            features = module(features)
        except Exception as error:  # of a size that does not fit
            raise ModelError(
                f"The {type(module).__name__} module of {root} does not fit the graph ({error}). Restore its "
                "configuration."
            ) from error


def _json(path: Path) -> dict[str, Any]:
    """Return the content of a file; empty where there is none.

    Raises:
        FormatError: it is damaged.
    """
    return read_json(path) if path.exists() else {}
