"""``routerretriever doctor``: what is wrong with a model, and what to do about it."""

from __future__ import annotations

import typer
from rich.text import Text

from routerretriever.cli.common import AsJson, Model
from routerretriever.cli.formatting import print_json, say


def doctor(model: Model, as_json: AsJson = False) -> None:
    """Say what is wrong with MODEL and what to do about it; exit code 1 if something is an error."""
    from routerretriever.doctor import ERROR, diagnose

    findings = diagnose(model)
    if as_json:
        print_json({"findings": [finding.to_dict() for finding in findings]})
    else:
        for finding in findings:
            color = {"error": "bold red", "warning": "yellow"}.get(finding.severity, "dim")
            what = f" {finding.check}, {finding.subject}: {finding.message}"
            say(Text.assemble((finding.severity, color), what))
            say(f"  {finding.fix}")
        if not findings:
            say("Nothing is wrong.")
    if any(finding.severity == ERROR for finding in findings):
        raise typer.Exit(1)
