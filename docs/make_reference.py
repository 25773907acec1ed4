"""The reference of the command line and of the Python names, as Markdown made of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import typer

from routerretriever.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "routerretriever"
MODULES = (
    "synthesis",
    "feedback",
    "server",
    "cluster",
    "integrations.langchain",
    "integrations.llama_index",
    "integrations.haystack",
    "integrations.mteb",
    "integrations.mcp_server",
    "evaluation.report",
    "errors",
)
"""What belongs to the public interface beside the names of the package itself, in the order of the reference.

Of a folder the names in its ``__all__`` are documented, of a module all without an underscore.
"""


# -- the command line ------------------------------------------------------------------------------


def cli_page() -> str:
    """Every command with its arguments and options."""
    lines = [
        "# Command line",
        "",
        "`--help` after any command says the same. Exit codes: 0, 1 for an error that says what to do, 2 for a command "
        'that could not be understood, 130 when interrupted. With `--json` an error is `{"error": {"type", '
        '"message"}}` on standard output.',
    ]
    for name, command in commands():
        lines += ["", f"## {PACKAGE} {name}", "", *_command(name, command)]
    return "\n".join(lines) + "\n"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its full name, as ``("index build", …)``; groups before what they hold."""
    yield from _walk("", typer.main.get_command(app))


def _walk(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        full = f"{prefix} {name}".strip()
        yield full, command
        if hasattr(command, "commands"):
            yield from _walk(full, command)


def _command(name: str, command: Any) -> list[str]:
    lines = [_plain(command.help or "")]
    if hasattr(command, "commands"):
        verbs = ", ".join(f"[`{verb}`](#{_anchor(f'{PACKAGE} {name} {verb}')})" for verb in command.commands)
        return [*lines, "", f"Verbs: {verbs}."]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and "--help" not in p.opts]
    usage = " ".join([PACKAGE, name, *(_argument(p) for p in arguments), "[OPTIONS]"])
    lines += ["", "```text", usage, "```"]
    if any(p.help for p in arguments):
        lines += ["", "| argument | |", "|---|---|"]
        lines += [f"| `{_shown(p)}` | {_escaped(p.help or '')} |" for p in arguments]
    for panel in dict.fromkeys(p.rich_help_panel for p in options):
        lines += ["", f"| {panel or 'option'} | | default |", "|---|---|---|"]
        lines += [_option(p) for p in options if p.rich_help_panel == panel]
    return lines


def _shown(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper()).strip("[]")


def _argument(parameter: Any) -> str:
    return _shown(parameter) if parameter.required else f"[{_shown(parameter)}]"


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    return f"| {names}{_value(parameter)} | {_escaped(parameter.help or '')} | {_default(parameter)} |"


def _value(parameter: Any) -> str:
    if parameter.is_flag:
        return ""
    return f" {parameter.metavar or _KINDS.get(parameter.type_descriptor.annotation, 'TEXT')}"


_KINDS = {int: "INTEGER", float: "NUMBER", Path: "PATH"}


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return _escaped(parameter.show_default)
    if parameter.required:
        return "required"
    if parameter.is_flag or parameter.default is None:
        return ""
    return f"`{parameter.default}`"


def _plain(text: str) -> str:
    return re.sub(r"[ \t]*\n[ \t]*(?=\S)", "\n", text.replace("\b", "")).strip()


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _anchor(title: str) -> str:
    return re.sub(r"[\s]+", "-", title.lower())


# -- Python ----------------------------------------------------------------------------------------


def python_page() -> str:
    """The names of the package itself."""
    package = _package()
    lines = [
        "# Python",
        "",
        f"What `from {PACKAGE} import …` gives. The folders that are public as well are on the page "
        "[Folders](modules.md). Everything else may change without notice.",
    ]
    for name in package.exports or ():
        found = package.members.get(str(name))
        if found is not None:
            lines += ["", *_documented(found, name=str(name))]
    return "\n".join(lines) + "\n"


def modules_page() -> str:
    """Return the page of the public folders: generating queries, learning from use, serving, frameworks, errors."""
    package = _package()
    exported = {str(name) for name in package.exports or ()}
    lines = ["# Folders", "", "Names of the package itself are on the page [Python](python.md)."]
    for module_name in MODULES:
        module = package[module_name]
        lines += ["", f"## {PACKAGE}.{module_name}", "", *_text(module)]
        for member in public_names(module):
            if member.name in exported and module_name != "errors":
                lines += ["", f"`{member.name}`: see [Python](python.md#{_anchor(member.name)})."]
            else:
                lines += ["", *_documented(member, name=member.name, level=3)]
    return "\n".join(lines) + "\n"


def _package() -> Any:
    return griffe.load(PACKAGE, search_paths=[str(ROOT / "src")], docstring_parser="google")


def public_names(module: Any) -> list[Any]:
    """Return what is public: of a folder the names in ``__all__``, of a module those without an underscore."""
    if module.exports:
        return [_resolved(module.members[str(name)]) for name in module.exports]
    return [
        member
        for member in module.members.values()
        if not member.is_alias
        and not member.name.startswith("_")
        and not member.is_module
        and (member.is_class or member.is_function or member.has_docstring)
    ]


def _resolved(member: Any) -> Any:
    return member.final_target if member.is_alias else member


def methods(found: Any) -> list[Any]:
    """Documented members of a class without an underscore, with those inherited from this package's own classes."""
    members = [
        m.final_target if m.is_alias else m
        for m in found.all_members.values()
        if not m.is_alias or m.inherited
    ]
    return [
        member
        for member in members
        if not member.name.startswith("_") and member.has_docstring and member.path.startswith(f"{PACKAGE}.")
    ]


def _documented(found: Any, *, name: str, level: int = 2) -> list[str]:
    target = found.final_target if found.is_alias else found
    lines = ["#" * level + f" {name}", ""]
    if target.is_module:
        return [
            *lines,
            *_text(target),
            "",
            f"Its names are on the page [Folders](modules.md), under `{target.path}`.",
        ]
    if target.is_attribute:
        return [*lines, *(_text(target) if target.has_docstring else ["The version of the package."])]
    if target.is_class and "dataclass" not in " ".join(str(d.value) for d in target.decorators):
        bases = ", ".join(str(base) for base in target.bases)
        lines += [*_code(f"class {name}({bases})" if bases else f"class {name}"), ""]
    else:
        lines += [*_code(_signature(target)), ""]
    lines += _text(target)
    if target.is_class:
        for member in methods(target):
            lines += ["", "#" * (level + 1) + f" {name}.{member.name}", ""]
            if member.is_function:
                lines += [*_code(_signature(member)), ""]
            lines += _text(member)
    return lines


def _signature(found: Any) -> str:
    """One line where it fits, else a line for every parameter; ``self`` is left out."""
    parameters = _parameters(found)
    result = f" -> {found.returns}" if found.is_function and found.returns else ""
    one = f"{found.name}({', '.join(parameters)}){result}"
    if len(one) <= 96:
        return one
    return f"{found.name}(\n" + "".join(f"    {part},\n" for part in parameters) + f"){result}"


def _parameters(found: Any) -> list[str]:
    parts: list[str] = []
    for parameter in found.parameters:
        if parameter.name in ("self", "cls"):
            continue
        kind = parameter.kind.value if parameter.kind else ""
        if kind == "keyword-only" and not any(part.startswith("*") for part in parts):
            parts.append("*")
        star = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        part = f"{star}{parameter.name}"
        if parameter.annotation is not None:
            part += f": {parameter.annotation}"
        if parameter.default is not None and not star:
            part += f" = {parameter.default}" if parameter.annotation is not None else f"={parameter.default}"
        parts.append(part)
    return parts


def _code(text: str) -> list[str]:
    return ["```text", text, "```"]


def _text(found: Any) -> list[str]:
    """A docstring: prose as it stands, sections as lists."""
    if not found.has_docstring:
        return []
    lines: list[str] = []
    for section in found.docstring.parsed:
        kind = section.kind.value
        if kind == "text":
            lines += [_markdown(section.value), ""]
        elif kind in ("parameters", "raises", "attributes", "other parameters"):
            lines += [f"*{_TITLES[kind]}*", ""]
            lines += [f"* `{_label(item)}`: {_markdown(item.description)}" for item in section.value]
            lines.append("")
        elif kind in ("returns", "yields"):
            lines += [
                f"*{_TITLES[kind]}* " + " ".join(_markdown(item.description) for item in section.value),
                "",
            ]
        elif kind == "admonition":
            lines += [f"*{section.title or section.value.kind}* {_markdown(section.value.description)}", ""]
    return lines[:-1] if lines and not lines[-1] else lines


_TITLES = {
    "parameters": "Arguments",
    "other parameters": "Further arguments",
    "raises": "Errors",
    "attributes": "Attributes",
    "returns": "Returns",
    "yields": "Yields",
}


def _label(item: Any) -> str:
    return str(getattr(item, "name", None) or item.annotation)


def _markdown(text: str) -> str:
    """Docstrings mark code as reStructuredText does."""
    return re.sub(r"``([^`]+)``", r"`\1`", re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)).strip()
