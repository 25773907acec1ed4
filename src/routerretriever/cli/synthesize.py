"""``routerretriever synthesize``: queries for a collection that has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routerretriever.cli.common import AsJson, Device
from routerretriever.cli.formatting import err, out, print_json, say
from routerretriever.errors import SynthesisError
from routerretriever.progress import Bars

if TYPE_CHECKING:
    from routerretriever.synthesis import LlmConfig, SynthesisReport

_WAYS = {
    ("doc2query",): ("batch_size",),
    ("doc2query", "llm"): ("model", "finish"),
    ("llm",): (
        *("endpoint", "prompt", "examples", "concurrency", "rate", "timeout", "retries", "body"),
        *("max_requests", "max_tokens", "max_cost", "price_in", "price_out"),
    ),
}
"""Which options only some ways read: with another way they would be ignored, and somebody meant something by them."""

_FILTER, _MODEL, _LLM = "The filter", "--with doc2query and llm", "--with llm"


def synthesize(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="COLLECTION",
            help="Documents as JSONL, a BEIR folder (its queries are not read), or any other collection.",
            show_default=False,
        ),
    ],
    out_dir: Annotated[
        Path, typer.Option("--out", help="Folder of the new collection: BEIR's layout.", show_default=False)
    ],
    way: Annotated[
        str,
        typer.Option(
            "--with",
            help="crops (spans of the text), titles (headings, sentences, phrases, keywords of the text), mixture of "
            "both, doc2query (a model that writes queries), or llm (a language model behind an endpoint).",
        ),
    ] = "mixture",
    queries: Annotated[int, typer.Option(min=1, help="About so many queries are made, before the filter.")] = 6000,
    per_passage: Annotated[int, typer.Option(min=1, help="At most so many for one passage.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a collection that this command wrote.")] = False,
    k: Annotated[
        int,
        typer.Option("-k", min=1, help="Keep a query if its passage is found this deep.", rich_help_panel=_FILTER),
    ] = 20,
    base: Annotated[
        str,
        typer.Option(help="Base encoder that must find the passages: hub id or path.", rich_help_panel=_FILTER),
    ] = "all-MiniLM-L6-v2",
    retriever: Annotated[
        str | None,
        typer.Option(help="A RouterRetriever MODEL that finds them instead of --base.", rich_help_panel=_FILTER),
    ] = None,
    expert: Annotated[
        str, typer.Option(help="Expert of --retriever that encodes the queries.", rich_help_panel=_FILTER)
    ] = "base",
    model: Annotated[
        str | None,
        typer.Option(
            help="doc2query: hub id or path (default BeIR/query-gen-msmarco-t5-base-v1). llm: its name there.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="doc2query: passages at once.", rich_help_panel=_MODEL)] = 16,
    finish: Annotated[
        bool,
        typer.Option("--finish", help="Make the collection of the answers so far.", rich_help_panel=_MODEL),
    ] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(help="Address ending in /v1; its key, if any, in OPENAI_API_KEY.", rich_help_panel=_LLM),
    ] = None,
    prompt: Annotated[
        Path | None,
        typer.Option(help="Prompt file with $text, and if wanted $title and $count.", rich_help_panel=_LLM),
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help='Few-shot examples: JSONL of {"text": …, "queries": […]}.', rich_help_panel=_LLM),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once.", rich_help_panel=_LLM)] = 4,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="At most so many requests a minute.", rich_help_panel=_LLM)
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one request.", rich_help_panel=_LLM)] = 60.0,
    retries: Annotated[
        int, typer.Option(min=0, help="Further tries of a request that failed.", rich_help_panel=_LLM)
    ] = 5,
    max_requests: Annotated[
        int | None,
        typer.Option(min=1, help="Stop after so many requests that may be billed, all runs.", rich_help_panel=_LLM),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Stop before so many tokens, all runs together.", rich_help_panel=_LLM)
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(min=0.0, help="Stop before this is spent; needs the prices.", rich_help_panel=_LLM),
    ] = None,
    price_in: Annotated[
        float, typer.Option(min=0.0, help="Price of a million tokens read.", rich_help_panel=_LLM)
    ] = 0.0,
    price_out: Annotated[
        float, typer.Option(min=0.0, help="Price of a million tokens written.", rich_help_panel=_LLM)
    ] = 0.0,
    body: Annotated[
        str | None,
        typer.Option(
            help="JSON merged into each request; null takes a field out: '{\"temperature\": null}'.",
            rich_help_panel=_LLM,
        ),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Make queries for a COLLECTION without labels, so that an expert can be trained on it.

    A query is kept only if the base finds its passage. What was dropped and why stands in synthesis.json. An
    interrupted doc2query or llm goes on with the same command; no answer is asked for twice.
    """
    from routerretriever.model import RouterRetriever
    from routerretriever.synthesis import Doc2QueryConfig, Limits, SynthesisConfig
    from routerretriever.synthesis import synthesize as run

    _check_options(ctx, way)
    llm = None
    if way == "llm":
        limits = Limits(max_requests, max_tokens, max_cost, price_in, price_out)
        given = {"concurrency": concurrency, "rate": rate, "timeout": timeout, "retries": retries, "limits": limits}
        llm = _llm(endpoint, model, prompt, examples, body, given)
    generator = Doc2QueryConfig(batch_size=batch_size, device=device)
    if model is not None and way == "doc2query":
        generator = Doc2QueryConfig(model, batch_size, device=device)
    config = SynthesisConfig(way, queries, per_passage, k, seed, generator, llm)
    if retriever is not None:
        finder = RouterRetriever.from_pretrained(retriever, device=device)
    else:
        finder = RouterRetriever.create(base, device=device)
    report = run(
        source, out_dir, model=finder, expert=expert, config=config, finish=finish, force=force, progress=Bars()
    )
    if as_json:
        print_json(report.to_dict() | {"out": str(out_dir)})
        return
    _show(report, out_dir)


def _check_options(ctx: typer.Context, way: str) -> None:
    """Refuse options that were given and would be ignored."""
    from routerretriever.synthesis import WAYS

    given = {
        parameter.name: parameter.opts[0]
        for parameter in ctx.command.params
        if parameter.name and (source := ctx.get_parameter_source(parameter.name)) and source.name == "COMMANDLINE"
    }
    if "retriever" in given and "base" in given:
        raise typer.BadParameter("--retriever takes the place of --base; give one of them.")
    if "expert" in given and "retriever" not in given:
        raise typer.BadParameter("--expert names an expert of --retriever MODEL; give that, too.")
    if way not in WAYS:
        return  # the way itself is what has to be told
    for ways, names in _WAYS.items():
        foreign = [given[name] for name in names if name in given]
        if foreign and way not in ways:
            raise typer.BadParameter(
                f"{', '.join(foreign)} {'belongs' if len(foreign) == 1 else 'belong'} to --with "
                f"{' or '.join(ways)}, not to --with {way}. Leave out what does not belong, or choose that way."
            )


def _llm(
    endpoint: str | None,
    model: str | None,
    prompt: Path | None,
    examples: Path | None,
    body: str | None,
    given: dict[str, Any],
) -> LlmConfig:
    from routerretriever.synthesis.llm import LlmConfig, read_examples, read_prompt

    if endpoint is None or model is None:
        raise SynthesisError("To ask a language model, say where it is and its name: --endpoint URL --model NAME.")
    try:
        extra = json.loads(body or "{}")
    except ValueError as error:
        raise SynthesisError(f"--body is not JSON ({error}).") from error
    if not isinstance(extra, dict):
        raise SynthesisError("--body is a JSON object, such as '{\"temperature\": null}'.")
    return LlmConfig(
        endpoint,
        model,
        prompt="" if prompt is None else read_prompt(prompt),
        examples=() if examples is None else read_examples(examples),
        extra=extra,
        **given,
    )


def _show(report: SynthesisReport, out_dir: Path) -> None:
    from routerretriever.synthesis.report import report_table

    out.print(report_table(report))
    for note in report.notes:
        say(note, err)
    if report.tokens_in or report.tokens_out:
        say(f"{report.tokens_in} tokens read, {report.tokens_out} written, cost {report.cost:.4f}")
    say(f"Saved in {out_dir}. Next: routerretriever train MODEL {out_dir}")
