"""What Lance says when something fails, as people may read it."""

from __future__ import annotations

import re

_PLACE = re.compile(r",? /\S+\.rs:\d+:\d+")  # in the source code of Lance


def reason_of(error: Exception) -> str:
    """Return the first line of an error without the place in Lance's source code; its type if it says nothing."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return _PLACE.sub("", first)
