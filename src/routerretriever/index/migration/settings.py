"""How an index gets another base."""

from __future__ import annotations

from dataclasses import dataclass

from routerretriever.errors import VectorIndexError
from routerretriever.index.parameters import is_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationSettings:
    """How an index gets another base.

    Attributes:
        sample: documents, or passages, that the bridge is fitted on.
        only_bridge: fit the bridge, and leave the documents for later.
        drop_old: remove the old vectors after the switch, instead of after a week.
        precision: in which documents are encoded.

    Raises:
        VectorIndexError: the sample is no whole number above 0.
    """

    sample: int = 2000
    only_bridge: bool = False
    drop_old: bool = False
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if not is_whole(self.sample) or self.sample < 1:
            raise VectorIndexError(
                f"The sample must be at least 1, and a whole number, but is {self.sample!r}."
            )
