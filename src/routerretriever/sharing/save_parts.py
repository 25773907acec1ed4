"""Write experts, pilots and card into a saved model."""

from __future__ import annotations

from pathlib import Path

from routerretriever.sharing.model_card import model_card
from routerretriever.storage.history import recording
from routerretriever.storage.model_folder import (
    ModelParts,
    check_fingerprint,
    described_modules,
    read_model_info,
    write_state,
)

CARD = "README.md"


def save_parts(parts: ModelParts, max_seq_length: int | None, path: str | Path) -> None:
    """Write into a saved model of the same base, whose other files stay as they are.

    Args:
        parts: what to write.
        max_seq_length: of the base, for the card.
        path: of the model.

    Raises:
        FormatError: there is no model at ``path``.
        FingerprintError: it has another base.
        StorageError: it could not be written; what was there is unchanged.
    """
    target = Path(path).expanduser()
    info = read_model_info(target)
    check_fingerprint(parts.fingerprint, info["base"]["fingerprint"], f"The files in {target}")
    with recording(target, parts) as staging:
        write_state(staging, parts, described_modules(info))
        (staging / CARD).write_text(model_card(parts, max_seq_length), encoding="utf-8")
