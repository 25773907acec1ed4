"""Texts that show whether an expert changes anything, and the error where it does not."""

from __future__ import annotations

from collections.abc import Sequence

from routerretriever.errors import SilentExpertError

PROBES = ("how do I untar a directory", "aspirin reduces the risk of stroke", "§ 4.2 café 東京")
FIRST_PROBE = "a"
"""Usually shows at once that an expert is not silent."""


def refuse_silent(silent: Sequence[str], where: str) -> None:
    """Raise an error that names the experts, if there are any.

    Args:
        silent: of :func:`silent_experts`.
        where: they are, as the end of "The expert 'NAME'".
    """
    if len(silent) == 1:
        raise SilentExpertError(
            f"The expert '{silent[0]}'{where} changes no query vector: its weights are zero or "
            "not finite. Train or export it again."
        )
    if silent:
        raise SilentExpertError(
            f"The experts {', '.join(silent)}{where} change no query vector: their weights are "
            "zero or not finite. Train or export them again."
        )
