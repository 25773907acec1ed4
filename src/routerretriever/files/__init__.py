"""Documents from a folder of files: Markdown, text, HTML, PDF, Office files, CSV and e-mail.

The folder is searched (``scan``), and every file is read (``readers``) in a child process that may use so
much memory and time (``child``, ``reading``). What a file gave is kept by its content (``cache``), so that
a file that did not change is not read again.
"""

from importlib.util import find_spec

from routerretriever.errors import MissingExtraError

# Looked for and not imported: only the child process needs most of them.
for _package in ("docx", "markdown_it", "pathspec", "pptx", "pypdf", "selectolax"):
    if find_spec(_package) is None:
        raise MissingExtraError("files", _package)
