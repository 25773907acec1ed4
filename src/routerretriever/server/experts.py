"""Add and remove experts while the server runs."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Mapping
from itertools import compress
from pathlib import Path
from typing import Any

from routerretriever.encoder.served_model import ServedModel
from routerretriever.errors import ExpertError, LibraryError
from routerretriever.experts.read_expert import read_adapter
from routerretriever.lora.adapter import Adapter
from routerretriever.server.access import Access
from routerretriever.server.metrics import Metrics
from routerretriever.server.problems import ApiError
from routerretriever.server.shared_model import SharedModel
from routerretriever.server.uninterrupted import uninterrupted


class ExpertService:
    """Changes the experts between two batches and saves them; belongs to the event loop.

    Args:
        model: that is changed.
        shared: applies and saves the changes.
        metrics: forget an expert that is removed.
    """

    def __init__(self, *, model: ServedModel, shared: SharedModel, metrics: Metrics) -> None:
        self._model = model
        self._shared = shared
        self._metrics = metrics

    async def add(
        self,
        name: str,
        files: Mapping[str, bytes],
        access: Access,
        *,
        gains: Mapping[str, Any] | None = None,
        trust_base: bool = False,
    ) -> None:
        """Check an uploaded adapter, add it between two batches, and save the model.

        Args:
            name: of the new expert.
            files: name → content, as PEFT writes them.
            access: of whoever asks.
            gains: collection → its measured gain, or one gain for each measured pilot.
            trust_base: accept an adapter that names another base.

        Raises:
            ApiError: the name is taken or not theirs, or another process holds the model for too long.
            ExpertError: the adapter cannot be used.
            LibraryError: the gains do not fit.
        """
        if not access.sees_expert(name):
            raise ApiError(
                403,
                f"This key may not add an expert '{name}'.",
                param="name",
                code="not_yours",
            )
        adapter = await asyncio.to_thread(self._read_upload, files, trust_base)

        def change() -> None:
            self._model.add_expert(name, adapter)
            if gains:
                self._check_gains(gains, access)
                self._model.set_gains(name, gains)

        async def add() -> None:
            async with self._shared.locked() as apply:
                if name in self._model.state.experts:
                    message = f"The model already has an expert '{name}'. Remove it first."
                    raise ApiError(409, message, param="name")
                await apply(change)

        await uninterrupted(add())

    def _read_upload(self, files: Mapping[str, bytes], trust_base: bool) -> Adapter:
        folder = Path(tempfile.mkdtemp(prefix="routerretriever-"))
        try:
            for file_name, content in files.items():  # names are ours, never a client's
                (folder / file_name).write_bytes(content)
            return read_adapter(self._model, folder, trust_base=trust_base)
        except ExpertError as error:
            message = str(error).replace(f"{folder}/", "").replace(str(folder), "the upload")
            raise ExpertError(message) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _check_gains(self, gains: Mapping[str, Any], access: Access) -> None:
        """Refuse gains on a collection that does not exist for whoever asks, as one that nobody has."""
        library = self._model.state.required_policy().library
        measured = set(compress(library.sources, library.measured))
        known = [name for name in access.seen_collections(library.collections()) if name in measured]
        for name in gains:
            if name not in known:
                raise LibraryError(
                    f"The pilot library has no measured pilots of '{name}'. It knows: {', '.join(known) or 'none'}."
                )

    async def remove(self, name: str, access: Access) -> None:
        """Remove an expert between two batches, and save the model.

        Raises:
            ApiError: for whoever asks there is no such expert, or another process holds the model for too long.
        """

        async def remove() -> None:
            async with self._shared.locked() as apply:
                if name not in self._model.state.experts or not access.sees_expert(name):
                    message = f"There is no expert '{name}'."
                    raise ApiError(404, message, param="name", code="expert_not_found")
                await apply(lambda: self._model.remove_expert(name))
                self._metrics.forget(name)

        await uninterrupted(remove())
