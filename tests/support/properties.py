"""What property tests draw from, and how many examples they try.

``ROUTERRETRIEVER_EXAMPLES=100000`` makes a long run; without it each test tries a few.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("ROUTERRETRIEVER_EXAMPLES", "0"))

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
"""Any text that UTF-8 can hold."""
IDS = TEXT.filter(bool)
WILD = st.text(max_size=20)
"""Any string of Python, halves of surrogate pairs included."""
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def tried(few):
    """Settings of a test that tries a few examples, or as many as the environment asks for."""
    return settings(
        max_examples=EXAMPLES or few,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
