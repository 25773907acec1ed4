"""Texts that show whether an expert changes anything, and the error where it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from routerretriever.errors import SilentExpertError

PROBES = ("how do I untar a directory", "aspirin reduces the risk of stroke", "§ 4.2 café 東京")
FIRST_PROBE = "a"
"""Usually shows at once that an expert is not silent."""
EXPERTS_AT_ONCE = 64
"""Experts that one batch tries."""

LargestChanges = Callable[[Sequence[str], str], Sequence[float]]
"""Names of experts, a probe → the largest difference that each makes to a component of its vector."""


def silent_experts(
    names: Sequence[str], largest_changes: LargestChanges, tolerance: float = 1e-6
) -> list[str]:
    """Return the experts that change no probe's vector by more than ``tolerance``, or make it NaN.

    Args:
        names: of the experts.
        largest_changes: tries at most :data:`EXPERTS_AT_ONCE` of them on a probe.
        tolerance: largest difference of any component.
    """
    silent = list(names)
    for probe in (FIRST_PROBE, *PROBES):
        remaining = silent
        silent = []
        for start in range(0, len(remaining), EXPERTS_AT_ONCE):
            block = remaining[start : start + EXPERTS_AT_ONCE]
            for name, change in zip(block, largest_changes(block, probe), strict=True):
                if not change > tolerance:  # true of NaN as well
                    silent.append(name)
    return silent


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
