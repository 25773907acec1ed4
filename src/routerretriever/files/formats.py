"""Which files are read, and how; known without importing any reader."""

from __future__ import annotations

from pathlib import PurePath

READERS = {
    ".md": "plain:read_markdown",
    ".markdown": "plain:read_markdown",
    ".txt": "plain:read_text",
    ".text": "plain:read_text",
    ".rst": "plain:read_text",
    ".csv": "plain:read_csv",
    ".html": "html:read_html",
    ".htm": "html:read_html",
    ".xhtml": "html:read_html",
    ".pdf": "pdf:read_pdf",
    ".docx": "office:read_docx",
    ".pptx": "office:read_pptx",
    ".eml": "mail:read_mail",
}
"""Suffix → module and function that read such a file."""


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name in small letters."""
    return PurePath(name).suffix.lower()


def is_readable(name: str) -> bool:
    """Return whether there is a reader for files of this name."""
    return suffix_of(name) in READERS
