"""The service: OpenAI-compatible embeddings, search, routing, and a page that shows them."""

from routerretriever.server.app import create_app
from routerretriever.server.run import serve
from routerretriever.server.settings import Limits, Settings, read_keys

__all__ = ["Limits", "Settings", "create_app", "read_keys", "serve"]
