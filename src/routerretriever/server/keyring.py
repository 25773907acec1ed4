"""All keys of a server, and what each may do."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from routerretriever.server.access import EVERYTHING, READER, Access, Right
from routerretriever.server.key_file import Key, digest_of
from routerretriever.server.settings import Settings


class Keyring:
    """Finds what a key may do.

    Args:
        settings: with all keys.

    Attributes:
        is_locked: whether reading needs a key.
        rights: those that some key has, or that anybody has.
    """

    def __init__(self, settings: Settings) -> None:
        reading = Access(rights=READER)
        self._whole = [(digest_of(key), EVERYTHING) for key in settings.admin_keys]
        self._whole += [(digest_of(key), reading) for key in settings.api_keys]
        self.is_locked = settings.is_locked
        self.take(settings.keys)

    def take(self, keys: Sequence[Key]) -> None:
        """Let these be the keys with scopes; requests that are being answered go on as they began."""
        self._keys = [*self._whole, *((key.digest, key.access) for key in keys)]
        rights: set[Right] = set() if self.is_locked else set(READER)
        self.rights = rights.union(*(access.rights for _, access in self._keys))

    def access(self, token: str) -> Access | None:
        """Return what a key may do; ``None`` for one that is not known.

        It is compared with every key in constant time, and digests hide the lengths too.
        """
        given = digest_of(token)
        found: Access | None = None
        for digest, access in self._keys:
            if hmac.compare_digest(given, digest) and found is None:
                found = access
        return found
