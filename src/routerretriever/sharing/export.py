"""One expert as a plain Sentence Transformers model, for servers that know nothing of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from torch import Tensor, nn

from routerretriever.encoder.base_files import is_plain
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.errors import ExpertError, ModelError
from routerretriever.lora.adapter import VECTOR_MAP
from routerretriever.lora.layers import FusedPlan
from routerretriever.routing.candidates import MERGED
from routerretriever.sharing.model_card import EXPERT_COLUMNS, expert_row, origin_of
from routerretriever.storage.atomic import replacing


class _Plain(SentenceTransformer):
    """The base's modules without the router; it is saved under Sentence Transformers' own names."""

    card = ""

    def _create_model_card(self, path: str, *args: Any, **kwargs: Any) -> None:
        Path(path, "README.md").write_text(self.card, encoding="utf-8")


def export_expert(model: RoutedModel, name: str, path: str | Path, *, licence: str | None = None) -> Path:
    """Fuse one expert's LoRA delta into the base's weights and write the result as a model of its own.

    Args:
        model: holds the expert.
        name: an expert, or ``merged``.
        path: a new or empty folder.
        licence: of the exported weights, as hubs abbreviate it (``apache-2.0``); default not stated.

    Returns:
        ``path``, resolved.

    Raises:
        ExpertError: there is no such expert, or it is the base, which needs no export.
        ModelError: ``path`` is not empty, or the base is behind an endpoint or an ONNX file.
        StorageError: the disk is full or the folder is not writable; nothing is left in it.
    """
    target, encoder = Path(path).expanduser().resolve(), model.encoder
    experts = encoder.state.experts
    plan = encoder.pinned_plan(name)
    if not isinstance(plan, FusedPlan):
        exportable = "none, the model has no experts"
        if experts:
            exportable = ", ".join((MERGED, *experts))
        raise ExpertError(
            f"'{name}' is the base itself, so there is nothing to export. Use {encoder.base.id}, or export one of: "
            f"{exportable}."
        )
    if not is_plain(encoder.body):
        raise ModelError(
            f"The base {encoder.base.id} is behind an endpoint or an ONNX file, which Sentence Transformers does not "
            "load as a part of a model. Serve the model instead: routerretriever serve MODEL."
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is not empty, and an export never replaces files. Choose another folder.")
    plain = _Plain(
        modules=[encoder.body, *encoder.head, *_map_modules(encoder, plan)],
        device=str(model.device),
        prompts={key: prompt for key, prompt in model.prompts.items() if prompt},
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
        truncate_dim=model.truncate_dim,
    )
    plain.card = export_card(encoder, name, licence)
    with replacing(target) as staging, encoder.text.own_settings():
        plain.save(str(staging))
        # The live model is not touched, so it may go on encoding: only what is written has the delta in it.
        if encoder.is_opened:
            weights = _fused_weights(encoder, plan)
            encoder.body.model.save_pretrained(str(staging), state_dict=weights)
    return target


def _map_modules(encoder: RoutedEncoder, plan: FusedPlan) -> list[nn.Module]:
    """Return the modules that do what the plan's map does, if it has one."""
    if not plan.changes(VECTOR_MAP):
        return []
    size = encoder.dimension
    weight = encoder.adapted_layers[VECTOR_MAP].fused_weight(plan.adapters, plan.weight)
    dense = Dense(size, size, bias=False, activation_function=nn.Identity(), init_weight=weight)
    if encoder.vector_map.to_unit_length:
        return [dense, Normalize()]
    return [dense]


def _fused_weights(encoder: RoutedEncoder, plan: FusedPlan) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = dict(encoder.body.model.state_dict())
    for name, layer in encoder.lora_layers.items():
        weights[f"{name}.weight"] = layer.fused_weight(plan.adapters, plan.weight)
    return weights


def export_card(encoder: RoutedEncoder, name: str, licence: str | None) -> str:
    """Return Markdown with the metadata block that hubs read; its first line says that documents need the base."""
    base = encoder.base
    origin, documents = origin_of(base), encoder.documents.base
    their_base = f"the base, {origin}"
    if documents is not base:
        their_base = f"the base of documents, {origin_of(documents)}"
    experts: tuple[str, ...] = (name,)
    what = f"the expert `{name}`"
    if name == MERGED:
        experts = tuple(encoder.state.experts)
        what = "the mean of these experts"
    stated: list[str] = []
    if licence:
        stated.append(f"license: {licence}")

    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        f"base_model: {base.id}",
        "base_model_relation: merge",
        *stated,
        "tags: [routerretriever, sentence-transformers, query-encoder]",
        "---",
        "",
        f"# {base.id.rpartition('/')[2]}, {name}: a query encoder",
        "",
        f"**For queries only.** Encode documents with {their_base}: document vectors of this model cannot be "
        "searched together with those of the base.",
        "",
        f"This is the base with {what} of a RouterRetriever model fused into its weights. Pooling, normalisation, "
        "similarity, maximum length and prompts are the base's. It does not route: it encodes every query in the same "
        "way.",
        "",
        *EXPERT_COLUMNS,
    ]
    lines += [expert_row(expert, encoder.state.infos[expert]) for expert in experts]
    lines += [
        "",
        f"Licence: {licence or 'not stated'}. The "
        f"weights derive from {origin} and from the data above, whose terms apply as well.",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        'queries = SentenceTransformer("PATH").encode_query(["…"])',
        f'documents = SentenceTransformer("{documents.id}").encode_document(["…"])',
        "```",
        "",
    ]
    return "\n".join(lines)
