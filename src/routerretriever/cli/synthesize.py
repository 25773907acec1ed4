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
from routerretriever.synthesis.methods import Method

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever
    from routerretriever.synthesis import LlmConfig, SynthesisConfig, SynthesisReport

_OPTIONS_OF = {
    ("doc2query",): ("batch_size",),
    ("doc2query", "llm"): ("model", "finish"),
    ("llm",): (
        *("endpoint", "prompt", "examples", "concurrency", "rate", "timeout", "retries"),
        *("body", "max_requests", "max_tokens", "max_cost", "price_in", "price_out"),
    ),
}
"""Methods, and the options that only they read; with another method these are refused."""

_FILTER = "The filter"
_MODEL = "--with doc2query and llm"
_LLM = "--with llm"


def _option(help_text: str, panel: str | None = None, **settings: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel=panel, **settings)


_Source = Annotated[
    str,
    typer.Argument(
        metavar="COLLECTION",
        help="Documents as JSONL, a BEIR folder (its queries are not read), or any other collection.",
        show_default=False,
    ),
]
_Out = Annotated[
    Path,
    typer.Option("--out", help="Folder of the new collection, in BEIR's layout.", show_default=False),
]
_Method = Annotated[
    Method,
    typer.Option(
        "--with",
        help="How queries are made: crops (spans of the text), titles (headings, sentences, "
        "phrases and keywords of the text), mixture of both, doc2query (a model that writes "
        "queries), or llm (a language model behind an endpoint).",
    ),
]
_Queries = Annotated[int, _option("Make about N queries, before the filter.", min=1)]
_PerPassage = Annotated[int, _option("Most queries for one passage.", min=1)]
_Seed = Annotated[int, _option("Random seed.")]
_Force = Annotated[bool, typer.Option("--force", help="Replace a collection that this command wrote.")]
_Depth = Annotated[
    int,
    typer.Option(
        "-k",
        min=1,
        help="Keep a query if its passage is among the first K results.",
        rich_help_panel=_FILTER,
    ),
]
_Base = Annotated[str, _option("Base encoder that must find the passages: hub id or path.", _FILTER)]
_Retriever = Annotated[str | None, _option("MODEL that must find the passages instead of --base.", _FILTER)]
_Expert = Annotated[str, _option("Expert of --retriever that encodes the queries.", _FILTER)]
_Model = Annotated[
    str | None,
    _option(
        "doc2query: hub id or path (default BeIR/query-gen-msmarco-t5-base-v1). llm: its name "
        "at the endpoint.",
        _MODEL,
    ),
]
_BatchSize = Annotated[int, _option("doc2query: passages in one batch.", _MODEL, min=1)]
_Finish = Annotated[
    bool,
    typer.Option(
        "--finish",
        help="Make the collection from the answers so far, without asking for more.",
        rich_help_panel=_MODEL,
    ),
]
_Endpoint = Annotated[
    str | None,
    _option("Address that ends in /v1. Its key, if it needs one, is in OPENAI_API_KEY.", _LLM),
]
_Prompt = Annotated[Path | None, _option("Prompt file with $text, and optionally $title and $count.", _LLM)]
_Examples = Annotated[Path | None, _option('Few-shot examples: JSONL of {"text": …, "queries": […]}.', _LLM)]
_Concurrency = Annotated[int, _option("Most requests in progress at once.", _LLM, min=1)]
_Rate = Annotated[float | None, _option("Most requests per minute.", _LLM, min=0.001)]
_Timeout = Annotated[float, _option("Seconds for one request.", _LLM, min=0.1)]
_Retries = Annotated[int, _option("Most attempts after a failed one.", _LLM, min=0)]
_MaxRequests = Annotated[
    int | None, _option("Most requests that may be billed, in all runs together.", _LLM, min=1)
]
_MaxTokens = Annotated[
    int | None, _option("Most tokens read and written, in all runs together.", _LLM, min=1)
]
_MaxCost = Annotated[
    float | None,
    _option("Spend at most this, in all runs together; needs --price-in and --price-out.", _LLM, min=0.0),
]
_PriceIn = Annotated[float, _option("Price of a million tokens read.", _LLM, min=0.0)]
_PriceOut = Annotated[float, _option("Price of a million tokens written.", _LLM, min=0.0)]
_Body = Annotated[
    str | None,
    _option(
        "JSON merged into each request; null removes a field: '{\"temperature\": null}'.",
        _LLM,
    ),
]


def synthesize(
    ctx: typer.Context,
    source: _Source,
    out_dir: _Out,
    method: _Method = "mixture",
    queries: _Queries = 6000,
    per_passage: _PerPassage = 6,
    seed: _Seed = 0,
    force: _Force = False,
    k: _Depth = 20,
    base: _Base = "all-MiniLM-L6-v2",
    retriever: _Retriever = None,
    expert: _Expert = "base",
    model: _Model = None,
    batch_size: _BatchSize = 16,
    finish: _Finish = False,
    endpoint: _Endpoint = None,
    prompt: _Prompt = None,
    examples: _Examples = None,
    concurrency: _Concurrency = 4,
    rate: _Rate = None,
    timeout: _Timeout = 60.0,
    retries: _Retries = 5,
    max_requests: _MaxRequests = None,
    max_tokens: _MaxTokens = None,
    max_cost: _MaxCost = None,
    price_in: _PriceIn = 0.0,
    price_out: _PriceOut = 0.0,
    body: _Body = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Make queries for a COLLECTION without labels, so that an expert can be trained on it.

    A query is kept only if the base finds its passage. synthesis.json says
    what was dropped and why. If doc2query or llm is interrupted, rerun the
    same command: it continues and asks for no answer twice.
    """
    from routerretriever.synthesis import synthesize as run

    _check_options(ctx, method)
    config = _config(ctx.params)
    report = run(
        source,
        out_dir,
        model=_finder(retriever, base, device),
        expert=expert,
        config=config,
        finish=finish,
        force=force,
        progress=Bars(),
    )
    if as_json:
        print_json(report.to_dict() | {"out": str(out_dir)})
        return
    _show(report, out_dir)


def _check_options(ctx: typer.Context, method: Method) -> None:
    """Refuse options that were given and would be ignored."""
    given = {}
    for parameter in ctx.command.params:
        source = parameter.name and ctx.get_parameter_source(parameter.name)
        if source and source.name == "COMMANDLINE":
            given[parameter.name] = parameter.opts[0]

    if "retriever" in given and "base" in given:
        raise typer.BadParameter("--retriever takes the place of --base; give one of them.")
    if "expert" in given and "retriever" not in given:
        raise typer.BadParameter("--expert names an expert of --retriever MODEL; give both.")
    for methods, names in _OPTIONS_OF.items():
        foreign = [given[name] for name in names if name in given]
        if foreign and method not in methods:
            verb = "belongs" if len(foreign) == 1 else "belong"
            raise typer.BadParameter(
                f"{', '.join(foreign)} {verb} to --with {' or '.join(methods)}, not to "
                f"--with {method}. Leave out what does not belong, or choose that method."
            )


def _config(given: dict[str, Any]) -> SynthesisConfig:
    """Return the settings from the parameters of the command."""
    from routerretriever.synthesis import Doc2QueryConfig, SynthesisConfig

    method = given["method"]
    generator = {name: given[name] for name in ("batch_size", "device")}
    if method == "doc2query" and given["model"] is not None:
        generator["model"] = given["model"]
    return SynthesisConfig(
        method=method,
        queries=given["queries"],
        per_passage=given["per_passage"],
        k=given["k"],
        seed=given["seed"],
        doc2query=Doc2QueryConfig(**generator),
        llm=_llm(given) if method == "llm" else None,
    )


def _llm(given: dict[str, Any]) -> LlmConfig:
    from routerretriever.synthesis import Limits, LlmConfig
    from routerretriever.synthesis.prompts import read_examples, read_prompt

    if given["endpoint"] is None or given["model"] is None:
        raise SynthesisError(
            "To ask a language model, say where it is and its name: --endpoint URL --model NAME."
        )
    prompt, examples = given["prompt"], given["examples"]
    return LlmConfig(
        endpoint=given["endpoint"],
        model=given["model"],
        prompt="" if prompt is None else read_prompt(Path(prompt)),
        examples=() if examples is None else read_examples(Path(examples)),
        concurrency=given["concurrency"],
        rate=given["rate"],
        timeout=given["timeout"],
        retries=given["retries"],
        limits=Limits(
            requests=given["max_requests"],
            tokens=given["max_tokens"],
            cost=given["max_cost"],
            price_in=given["price_in"],
            price_out=given["price_out"],
        ),
        extra=_extra(given["body"] or "{}"),
    )


def _extra(body: str) -> dict[str, Any]:
    try:
        extra = json.loads(body)
    except ValueError as error:
        raise SynthesisError(f"--body is not JSON ({error}). Check its quotes.") from error
    if not isinstance(extra, dict):
        raise SynthesisError("--body is a JSON object, such as '{\"temperature\": null}'.")
    return extra


def _finder(retriever: str | None, base: str, device: str | None) -> RouterRetriever:
    """Return the model that must find the passages."""
    from routerretriever.model import RouterRetriever

    if retriever is not None:
        return RouterRetriever.from_pretrained(retriever, device=device)
    return RouterRetriever.create(base, device=device)


def _show(report: SynthesisReport, out_dir: Path) -> None:
    from routerretriever.synthesis.report import report_table

    out.print(report_table(report))
    for note in report.notes:
        say(note, err)
    if report.tokens_in or report.tokens_out:
        tokens = f"{report.tokens_in} tokens read, {report.tokens_out} written"
        say(f"{tokens}, cost {report.cost:.4f}")
    say(f"Saved in {out_dir}. Next: routerretriever train MODEL {out_dir}")
