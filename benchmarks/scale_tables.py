"""The tables of benchmarks/scale/README.md, made by benchmarks/tables.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import scale_cost

Content = dict[str, Any]


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown, numbers in all columns but the first."""
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def _ms(row: Content) -> tuple[str, str]:
    """Median and 99th percentile."""
    median, tail = (f"{row['ms'][key]:,.1f}" for key in ("p50", "p99"))
    return median, tail


def throughput(content: Content) -> str:
    """Documents a second, and what a job costs beside them."""
    part = content["throughput"]
    rows = [
        (name, f"{row['documents_per_second']:.0f}", f"{row['fixed_seconds']:.0f}")
        for name, row in part["systems"].items()
    ]
    heads = ("", "documents a second", "fixed cost, s")
    rounds = len(next(iter(part["systems"].values()))["seconds"]["small"])
    source = "one round" if rounds == 1 else f"medians of {rounds} rounds"
    return f"{table(heads, rows)}\n\nRatio {part['ratio']:.2f}; {source}."


def memory(content: Content) -> str:
    """The most memory of jobs of three sizes."""
    part = content["throughput"]
    rows = [
        (name, f"{part['documents'][size]:,}", *_peaks(peaks))
        for name, row in part["systems"].items()
        for size, peaks in row.get("peak_mib", {}).items()
    ]
    largest = content["large"]
    rows.append(("the large job", f"{largest['report']['documents']:,}", *_peaks(largest["peak_mib"])))
    return table(
        ("", "documents", "driver, MiB", "largest worker, MiB", "all processes, Ray's among them, MiB"), rows
    )


def _peaks(peaks: Content) -> list[str]:
    return [f"{peaks[name]:,.0f}" if peaks[name] else "–" for name in ("driver", "worker", "job")]


def large(content: Content) -> str:
    """The large job: how long it took and what memory."""
    part = content["large"]
    report = part["report"]
    rows = (
        ("documents", f"{report['documents']:,}"),
        ("driver killed after, s", part["killed_after_seconds"]),
        ("documents that were not encoded again", f"{report['recorded']:,}"),
        ("whole job, s", f"{part['seconds']:,}"),
    )
    return table(("", ""), rows)


def kinds(content: Content) -> str:
    """What each kind of vector index costs."""
    rows = [
        (
            row["kind"],
            f"{row['build_seconds']:.0f}",
            "–" if row["build_memory_mib"] is None else f"{row['build_memory_mib']:,}",
            f"{row['disk_mib']:,}",
            f"{row['search_memory_mib']:,}",
        )
        for row in content["kinds"]
    ]
    return table(("kind", "build, s", "memory to build, MiB", "disk, MiB", "memory to search, MiB"), rows)


def settings(content: Content) -> str:
    """How fast and how exact each kind is at several settings."""
    heads = (
        "kind",
        "nprobes",
        "refine",
        "ef",
        "recall@10",
        "p50, ms",
        "p99, ms",
        "queries a second, all cores",
    )
    exact = content["exact"]
    rows = [("exact", "–", "–", "–", f"{exact['recall@10']:.3f}", *_ms(exact), "–")]
    for kind in content["kinds"]:
        for row in kind["settings"]:
            rate = f"{row['queries_per_second_batched']:.0f}"
            where = (row["nprobes"], row["refine"], row["ef"] or "–")
            rows.append((kind["kind"], *where, f"{row['recall@10']:.3f}", *_ms(row), rate))
    return table(heads, rows)


def filters(content: Content) -> str:
    """What filters cost, and that they never leave too few."""
    heads = ("kind", "kept", "documents", "fewest results", "recall@10", "p50, ms", "p99, ms")
    rows = [
        (
            kind["kind"],
            kept,
            f"{row['documents']:,}",
            row["fewest_results"],
            f"{row['recall@10']:.3f}",
            *_ms(row),
        )
        for kind in content["kinds"]
        for kept, row in kind["filters"].items()
    ]
    return table(heads, rows)


def text(content: Content) -> str:
    """Searching by words, alone and fused, without and with filters."""
    part = content["text"]
    rows = [
        (mode, kept, *(f"{found[q]:.1f}" for q in ("p50", "p99")), found["fewest_results"])
        for mode in ("text", "hybrid")
        for kept, found in {"100%": part[mode], **part[mode]["filters"]}.items()
    ]
    built = f"The text index took {part['build_seconds']:.0f} s and {part['disk_mib']:,} MiB."
    return table(("mode", "kept", "p50, ms", "p99, ms", "fewest results"), rows) + "\n\n" + built


def changes(content: Content) -> str:
    """A tenth replaced and a tenth deleted."""
    part = content["changes"]
    rows = [
        (when, f"{row['recall@10']:.3f}", *_ms(row), f"{row['disk_mib']:,}")
        for when, row in (("before refresh", part["before_refresh"]), ("after", part["after_refresh"]))
    ]
    note = (
        f"{part['replaced']:,} documents were replaced and {part['deleted']:,} deleted in {part['seconds']:.0f} s; "
        f"the refresh took {part['refresh_seconds']:.0f} s. Once old versions were cleaned away the index had "
        f"{part['disk_mib_cleaned']:,} MiB."
    )
    return table(("", "recall@10", "p50, ms", "p99, ms", "disk, MiB"), rows) + "\n\n" + note


def kills(content: Content) -> str:
    """What was killed, and what was found."""
    rows = list(content["kills"].items())
    note = (
        f"{content['acknowledged']:,} acknowledged writes, {content['documents at the end']:,} documents at the end; "
        f"kills after which something was lost, doubled, torn or unreadable: {content['kills with a fault']}."
    )
    return table(("killed during", "times"), rows) + "\n\n" + note


def cost(content: Content) -> str:
    """Larger numbers of documents, worked out."""
    return scale_cost.table()


PAGE = "benchmarks/scale/README.md"
TABLES = (
    (PAGE, "throughput", "scale/ingest.json", throughput),
    (PAGE, "large", "scale/ingest.json", large),
    (PAGE, "memory", "scale/ingest.json", memory),
    (PAGE, "kinds", "scale/search.json", kinds),
    (PAGE, "settings", "scale/search.json", settings),
    (PAGE, "filters", "scale/search.json", filters),
    (PAGE, "text", "scale/search.json", text),
    (PAGE, "changes", "scale/search.json", changes),
    (PAGE, "kills", "scale/kills.json", kills),
    ("docs/costs.md", "cost", "scale/search.json", cost),
)
