"""The README of a saved model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from routerretriever.encoder import RoutedEncoder
    from routerretriever.storage import ExpertInfo

EXPERT_COLUMNS = (
    "| expert | trained on | queries | held-out queries | base nDCG@10 | expert nDCG@10 |",
    "|---|---|--:|--:|--:|--:|",
)


def expert_row(name: str, info: ExpertInfo) -> str:
    """What is known of an expert, as a row below ``EXPERT_COLUMNS``."""
    scores = f"{100 * info.base_ndcg:.1f} | {100 * info.expert_ndcg:.1f}" if info.held_out else "– | –"
    trained_on = f"{info.collection or 'imported'}{' (generated queries)' if info.generated else ''}"
    return f"| {name} | {trained_on} | {info.queries} | {info.held_out} | {scores} |"


def model_card(encoder: RoutedEncoder) -> str:
    """Markdown with the metadata block that hubs read: base, experts, measured gains, use."""
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        f"base_model: {encoder.base.id}",
        "tags: [routerretriever, sentence-transformers, peft, lora]",
        "---",
        "",
        "# RouterRetriever",
        "",
        f"The frozen base encoder `{encoder.base.id}` with {len(encoder.experts)} LoRA experts on the query side. "
        "Documents are encoded by the base alone, so one index serves all experts.",
        "",
        *EXPERT_COLUMNS,
    ]
    for name in encoder.experts:
        lines.append(expert_row(name, encoder.expert_info[name]))
    for name, info in encoder.expert_info.items():
        if info.generated:
            ways = ", ".join(f"{count} {way}" for way, count in info.generated.items())
            lines += [
                "",
                f"`{name}` learnt from queries that nobody asked: {sum(info.generated.values())} of {info.queries} "
                f"were generated ({ways}). Unless its collection has real ones in its dev split, so are those its "
                "scores above are measured on.",
            ]
    policy = encoder.policy
    if policy is None:
        lines += ["", "The pilot library has not been built: queries are encoded by the base."]
    else:
        library = policy.router.library
        lines += [
            "",
            f"Router: `{policy.router.name}`, {len(library)} pilots from {', '.join(library.collections())}. "
            "Gains were measured on held-out queries"
            + (f" and, of {int(library.from_feedback.sum())} pilots, in use." if library.feedback else "."),
        ]
    lines += [
        "",
        "```python",
        "from routerretriever import RouterRetriever",
        "",
        'model = RouterRetriever.from_pretrained("PATH")',
        'model.encode_query(["…"])      # every query by the expert it needs',
        'model.encode_document(["…"])   # always the base',
        'model.route(["…"])             # which expert, and why',
        "```",
        "",
    ]
    return "\n".join(lines)
