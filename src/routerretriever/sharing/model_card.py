"""Write the card of a saved model, and of a single expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import huggingface_hub  # which loads what is asked for, when it is
import numpy as np

from routerretriever.lora.expert_info import BaseInfo, ExpertInfo, Selection
from routerretriever.routing.pilot_library import GENERATED_GAIN, GENERATED_MARK, PilotLibrary, marked
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.self_check import RoutingQuality
from routerretriever.storage.model_folder import ModelParts

EXPERT_COLUMNS = (
    "| expert | trained on | queries | held-out queries | base nDCG@10 | expert nDCG@10 | p | measured on |",
    "|---|---|--:|--:|--:|--:|--:|---|",
)
HERE = "PATH"
"""Placeholder in a card for the path or name of the model."""


def expert_row(name: str, info: ExpertInfo) -> str:
    """Return what is known of an expert, as a row below ``EXPERT_COLUMNS``."""
    scores = "– | – | – | –"
    if info.held_out:
        p_value = "–"
        if info.p_value is not None:
            p_value = f"{info.p_value:.2g}"
        scores = f"{100 * info.base_ndcg:.1f} | {100 * info.expert_ndcg:.1f} | {p_value} | {info.measured_on}"
    held_out = marked(str(info.held_out), info.held_out > 0 and info.gain_on_generated)
    return f"| {name} | {info.trained_on} | {info.queries} | {held_out} | {scores} |"


def model_card(
    parts: ModelParts,
    max_seq_length: int | None,
    where: str = HERE,
    licence: str | None = None,
    quality: Sequence[RoutingQuality] = (),
) -> str:
    """Return Markdown with the metadata block that hubs read.

    It states base, experts, data, measured gains, routing, limits and use.

    Args:
        parts: of the model.
        max_seq_length: longest input in tokens.
        where: what ``from_pretrained`` takes.
        licence: of the whole, as hubs abbreviate it; default not stated.
        quality: what :func:`routerretriever.routing.self_check.routing_quality` measured.
    """
    experts = parts.state.infos
    title = where
    if where == HERE:
        title = "RouterRetriever"
    generated: list[str] = []
    for name, info in experts.items():
        generated += _generated(name, info)

    lines = [
        *_metadata(parts, experts, title, licence, loaders=("sentence-transformers", "peft")),
        "# RouterRetriever",
        "",
        f"The frozen base encoder {origin_of(parts.base)} with {len(experts)} LoRA experts on the query side. "
        f"Documents are encoded by {_of_documents(parts)}, so one index serves all experts.",
        "",
        *EXPERT_COLUMNS,
        *(expert_row(name, experts[name]) for name in experts),
        *_measured(experts),
        *generated,
        *_routing(parts.state.policy, quality),
        *_limits(parts, max_seq_length, experts, licence),
        "",
        "```python",
        "from routerretriever import RouterRetriever",
        "",
        f'model = RouterRetriever.from_pretrained("{where}")',
        'model.encode_query(["…"])      # every query by the expert it needs',
        'model.encode_document(["…"])   # always the base',
        'model.route(["…"])             # which expert, and why',
        "```",
        "",
    ]
    return "\n".join(lines)


def expert_card(parts: ModelParts, name: str, where: str, licence: str | None = None) -> str:
    """Return the card of a single expert in PEFT's format."""
    info = parts.state.infos[name]
    by = "the base"
    if parts.documents is not None:
        by = origin_of(parts.documents)
    lines = [
        *_metadata(parts, {name: info}, where, licence, loaders=("peft",)),
        f"# {name}: an expert for queries",
        "",
        f"A LoRA adapter of {origin_of(parts.base)} for [RouterRetriever](https://arxiv.org/abs/2409.02685). It "
        f"changes only queries: {by} encodes the documents.",
        "",
        *EXPERT_COLUMNS,
        expert_row(name, info),
        *_measured({name: info}),
        *_generated(name, info),
        "",
        _terms(parts, {name: info}, licence),
        "",
        "```",
        f"routerretriever experts add MODEL {where}",
        "```",
        "",
        f'`PeftModel.from_pretrained(base, "{where}")` loads it without a router.',
        "",
    ]
    return "\n".join(lines)


def _of_documents(parts: ModelParts) -> str:
    if parts.documents is None:
        return "the base alone"
    return f"another encoder, {origin_of(parts.documents)}, whose vectors are in the same space"


def _metadata(
    parts: ModelParts,
    experts: Mapping[str, ExpertInfo],
    name: str,
    licence: str | None,
    *,
    loaders: Sequence[str],
) -> list[str]:
    datasets = [part for info in experts.values() for part in info.collection.split(", ") if part]
    data = huggingface_hub.ModelCardData(
        base_model=None if ":" in parts.base.id else parts.base.id,  # hubs know no other names
        base_model_relation="adapter",
        datasets=list(dict.fromkeys(datasets)) or None,
        library_name=loaders[0],
        license=licence,
        pipeline_tag="sentence-similarity",
        tags=["routerretriever", *loaders, "lora"],
        model_name=name,
        eval_results=_results(experts) or None,
    )
    if data.eval_results is None:
        data.pop("model_name")
    return ["---", *data.to_yaml().splitlines(), "---", ""]


def _results(experts: Mapping[str, ExpertInfo]) -> list[huggingface_hub.EvalResult]:
    """Return held-out figures, as fractions of 1, for the hub's ``model-index``."""
    results: list[huggingface_hub.EvalResult] = []
    for name, info in experts.items():
        if not info.held_out or not info.collection:
            continue
        dataset = info.collection
        if info.generated:
            dataset += " (generated queries)"
        for by, value in (("the base", info.base_ndcg), (f"the expert {name}", info.expert_ndcg)):
            result = huggingface_hub.EvalResult(
                task_type="information-retrieval",
                task_name="Information Retrieval",
                dataset_type=info.collection,
                dataset_name=dataset,
                dataset_split="held-out",
                metric_type="ndcg_at_10",
                metric_name=f"nDCG@10 by {by}",
                metric_value=round(value, 4),
            )
            results.append(result)
    return results


def origin_of(base: BaseInfo) -> str:
    """Return the base's name, and its revision where that is known."""
    if not base.revision:
        return f"`{base.id}`"
    return f"`{base.id}` at revision `{base.revision}`"


def _measured(experts: Mapping[str, ExpertInfo]) -> list[str]:
    """Say which held-out queries chose an expert, and which it was measured on."""
    lines: list[str] = []
    for name, info in experts.items():
        if not info.held_out:
            continue
        lines += ["", f"`{name}`: {_how_measured(info)}"]
        if info.other_styles is not None:
            lines[-1] += f" Other ways of asking: {info.other_styles}."
    return lines


def _how_measured(info: ExpertInfo) -> str:
    optimistic = ""
    if info.selection_gain is not None:
        optimistic = (
            f" On the queries that chose it, it gains {100 * info.selection_gain:+.1f}: that is optimistic."
        )
    gain = f"gain {100 * info.gain:+.1f}"
    if info.selection == Selection.SPLIT:
        return (
            f"{gain} on {info.held_out} held-out queries. {info.selected_by} others stopped the training and chose "
            f"the adapter weight.{optimistic}"
        )
    if info.selection == Selection.CROSS_FIT:
        return (
            f"{gain} on {info.held_out} held-out queries, cross-fitted: each was measured with an adapter that "
            f"the other folds chose, since there are too few to divide.{optimistic}"
        )
    return (
        f"{gain} on {info.held_out} held-out queries. The same queries may have stopped the training and chosen "
        "the adapter weight; then the gain is optimistic."
    )


def _generated(name: str, info: ExpertInfo) -> list[str]:
    """Say which queries of an expert were generated; nothing if none were."""
    if not info.generated:
        return []
    methods = ", ".join(f"{count} {method}" for method, count in info.generated.items())
    source = ""
    if info.source:
        source = f" from {info.source}"
    return [
        "",
        f"`{name}` was trained on synthetic queries: {sum(info.generated.values())} of its {info.queries} queries were "
        f"generated ({methods}){source}. {_measured_on(info)}",
    ]


def _measured_on(info: ExpertInfo) -> str:
    if info.held_out_generated is None:
        return (
            "The scores above were also measured on generated queries, unless the dev split of its collection has "
            "real ones."
        )
    if info.held_out_generated:
        return (
            f"Of the {info.held_out} queries that the scores above were measured on, {info.held_out_generated} were "
            "generated, too: the scores do not show a gain on real queries."
        )
    if info.held_out:
        return "The scores above were measured on real queries."
    return "The expert was not measured."


def _routing(policy: RoutingPolicy | None, quality: Sequence[RoutingQuality]) -> list[str]:
    if policy is None:
        return ["", "The pilot library has not been built: queries are encoded by the base."]
    library = policy.library
    used = "."
    if library.feedback:
        used = f" and, of {int(library.from_feedback.sum())} pilots, in use."
    mark: list[str] = []
    if library.generated:
        mark += ["", f"{GENERATED_MARK}: {GENERATED_GAIN}"]
    return [
        "",
        "## Routing",
        "",
        f"Router: `{policy.router.name}`, {len(library)} pilots from {', '.join(library.collections())}. "
        f"Gains were measured on held-out queries{used} A query that chose an expert says nothing of that expert; "
        "where the choice was cross-fitted, the gains are lowered by the optimism that the training measured. Mean "
        "gains over base, nDCG@10 × 100:",
        "",
        *_gains(library),
        *_quality(library, quality),
        *mark,
    ]


def _gains(library: PilotLibrary) -> list[str]:
    lines = ["| queries of | " + " | ".join(library.experts) + " |", "|---|" + "--:|" * len(library.experts)]
    for name, means in library.mean_gains().items():
        cells = ("–" if np.isnan(mean) else f"{100 * mean:+.1f}" for mean in means)
        lines.append(f"| {library.label(name)} | " + " | ".join(cells) + " |")
    return lines


def _quality(library: PilotLibrary, quality: Sequence[RoutingQuality]) -> list[str]:
    if not quality:
        return []
    return [
        "",
        "The gain of routing, cross-validated: each fifth of the pilots is routed by the others. With a partial "
        "adapter weight, the same part of the expert's gain is counted:",
        "",
        "| queries of | pilots' queries | to an expert | routed gain | best single expert | its gain |",
        "|---|--:|--:|--:|---|--:|",
        *(
            f"| {library.label(row.collection)} | {row.queries} | {100 * row.share:.0f}% | {100 * row.gain:+.1f} | "
            f"{row.best_expert} | {100 * row.best_gain:+.1f} |"
            for row in quality
        ),
    ]


def _limits(
    parts: ModelParts, max_seq_length: int | None, experts: Mapping[str, ExpertInfo], licence: str | None
) -> list[str]:
    made_by = "this base"
    if parts.documents is not None:
        made_by = origin_of(parts.documents)
    cut = ""
    if max_seq_length is not None:
        cut = f"Texts are cut after {max_seq_length} tokens. "
    return [
        "",
        "## Limits",
        "",
        f"{cut}The figures above hold for queries of the collections named "
        "there. For out-of-domain queries the weight of the experts is reduced. Search only indexes whose documents "
        f"were encoded by {made_by}.",
        "",
        _terms(parts, experts, licence),
    ]


def _terms(parts: ModelParts, experts: Mapping[str, ExpertInfo], licence: str | None) -> str:
    data = "; ".join(f"{name}: {info.data_licence or 'not stated'}" for name, info in experts.items())
    of_data = "."
    if data:
        of_data = f" (licence of each expert's data: {data})."
    return (
        f"Licence: {licence or 'not stated'}. The weights derive from {origin_of(parts.base)} "
        f"(licence: {parts.base.licence or 'see the base'}) and from the data named above, whose terms apply as well"
        f"{of_data}"
    )
