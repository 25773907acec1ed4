"""One expert as a plain Sentence Transformers model, for servers that know nothing of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import Tensor

from routerretriever.encoder.protocol import RoutedModel
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.errors import ExpertError, ModelError
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
        path: a folder that is not there yet, or empty.
        licence: of the exported weights, as hubs abbreviate it (``apache-2.0``); default not stated.

    Returns:
        ``path``, resolved.

    Raises:
        ExpertError: there is no such expert, or it is the base, which needs no export.
        ModelError: ``path`` holds something.
        StorageError: the disk is full or the folder is not writable; nothing is left there.
    """
    target, encoder = Path(path).expanduser().resolve(), model.encoder
    experts = encoder.state.experts
    plan = encoder.pinned_plan(name)
    if not isinstance(plan, FusedPlan):
        exportable = "none, the model has no experts"
        if experts:
            exportable = ", ".join((MERGED, *experts))
        raise ExpertError(
            f"'{name}' is the base itself here, there is nothing to merge. Use {encoder.base.id} as it is, or export "
            f"one of: {exportable}."
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is not empty. An export never replaces anything: choose another folder.")
    plain = _Plain(
        modules=[encoder.transformer, *encoder.head],
        device=str(model.device),
        prompts={key: prompt for key, prompt in model.prompts.items() if prompt},
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
        truncate_dim=model.truncate_dim,
    )
    plain.card = export_card(encoder, name, licence)
    with replacing(target) as staging:
        plain.save(str(staging))
        # The live model is not touched, so it may go on encoding: only what is written has the delta in it.
        encoder.transformer.model.save_pretrained(str(staging), state_dict=_fused_weights(encoder, plan))
    return target


def _fused_weights(encoder: RoutedEncoder, plan: FusedPlan) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = dict(encoder.transformer.model.state_dict())
    for name, layer in encoder.lora_layers.items():
        weights[f"{name}.weight"] = layer.fused_weight(plan.adapters, plan.weight)
    return weights


def export_card(encoder: RoutedEncoder, name: str, licence: str | None) -> str:
    """Return Markdown with the metadata block that hubs read; it says first that documents need the base."""
    base = encoder.base
    origin = origin_of(base)
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
        f"**For queries only.** The documents must be encoded with the base, {origin}: this model's own vectors of "
        "documents do not belong into the same index.",
        "",
        f"The base's weights with {what} of a RouterRetriever model merged in; pooling, normalisation, similarity, "
        "length and prompts are the base's. It does not route: every query is encoded by this expert.",
        "",
        *EXPERT_COLUMNS,
    ]
    lines += [expert_row(expert, encoder.state.infos[expert]) for expert in experts]
    lines += [
        "",
        f"Licence: {licence or 'not stated by whoever exported it'}. The "
        f"weights derive from {origin} and from the data above, whose terms apply as well.",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        'queries = SentenceTransformer("PATH").encode_query(["…"])',
        f'documents = SentenceTransformer("{base.id}").encode_document(["…"])',
        "```",
        "",
    ]
    return "\n".join(lines)
