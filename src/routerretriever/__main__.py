"""``python -m routerretriever``: the command line."""

from routerretriever.cli.app import app

app()
