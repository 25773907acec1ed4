"""Packages that come with an extra, and the error that names it where they are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from routerretriever.errors import MissingExtraError

TRAIN = "train"
"""The extra with what trains: torch, and the libraries around it."""
TRAINING_PACKAGES = (
    "torch",
    "transformers",
    "sentence_transformers",
    "peft",
    "sklearn",
    "scipy",
    "ir_measures",
    "onnx",
    "jinja2",
)


@contextmanager
def of_training() -> Iterator[None]:
    """Within the block, a missing package of the ``train`` extra is an error that names the extra.

    Raises:
        MissingExtraError: names the package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in TRAINING_PACKAGES:
            raise
        raise MissingExtraError(TRAIN, package) from error
