"""The service: OpenAI-compatible embeddings, search, routing, and a page that shows them."""

from routerretriever.server.app import create_app
from routerretriever.server.check_keys import check_settings
from routerretriever.server.key_file import read_key_file
from routerretriever.server.run import serve
from routerretriever.server.settings import Limits, Settings, read_keys

__all__ = [
    "Limits",
    "Settings",
    "check_settings",
    "create_app",
    "read_key_file",
    "read_keys",
    "serve",
]
