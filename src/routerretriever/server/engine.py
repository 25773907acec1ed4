"""What the server does, apart from HTTP: one model, one index, and a service for each kind of request."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence

from routerretriever.index.index import Index
from routerretriever.kernels.threads import available_threads
from routerretriever.reranking.reranker import Reranker
from routerretriever.server.answering import Answering
from routerretriever.server.batching import Batcher
from routerretriever.server.check_keys import check_keys, check_shadow
from routerretriever.server.documents import DocumentService
from routerretriever.server.encode_batch import BatchEncoder
from routerretriever.server.experts import ExpertService
from routerretriever.server.feedback_log import FeedbackLog
from routerretriever.server.key_file import Key
from routerretriever.server.metrics import Metrics
from routerretriever.server.open_spans import open_spans
from routerretriever.server.queries import QueryService
from routerretriever.server.read_saved import load_model
from routerretriever.server.served_files import ServedFiles
from routerretriever.server.settings import Settings
from routerretriever.server.shadow import Shadow
from routerretriever.server.shared_model import SharedModel
from routerretriever.server.text_encoder import TextEncoder
from routerretriever.server.uploads import UploadService

_MOST_WORKERS = 4


class Engine:
    """Loads a model and an index, and holds the services that use them.

    Attributes:
        ready: model and index are loaded.
        failure: why they could not be loaded.
        loaded_at: when the server started, in seconds since 1970.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(settings.replica)
        self.feedback = FeedbackLog(settings.feedback_log, settings.limits.feedback_bytes)
        self.spans = open_spans(settings)
        self.loaded_at = int(time.time())
        self.ready = False
        self.failure = ""
        self.shadow: Shadow | None = None
        self._workers = settings.batching.workers or min(_MOST_WORKERS, available_threads())

    def load(self) -> None:
        """Read model and index and encode once, so that the first client does not wait; blocks."""
        settings = self.settings
        self.model, version = load_model(
            settings.model,
            engine=settings.engine,
            device=settings.device,
            threads=max(1, available_threads() // self._workers),
        )
        self.fingerprint = self.model.fingerprint
        self.index = None if settings.index is None else Index.open(settings.index, self.model)
        self.check_keys(settings.keys)
        state = self.model.state
        if settings.shadow is not None:
            check_shadow(settings, experts=tuple(state.experts), library=state.library)
        reranker = None
        if settings.rerank is not None:
            reranker = Reranker.load(settings.rerank, device=settings.device)
        # Documents have graphs of their own in an engine of 8 bits, which a server that only searches never opens.
        self.model.encode_routed(["warm up"])

        self.answering = Answering(self.model, settings.shadow)
        self.batcher = self._make_batcher()
        self.shared = SharedModel(
            self.model,
            settings.model,
            version=version,
            barrier=self.batcher.change,
            forget=self.metrics.forget,
        )
        self._make_services(self.index, reranker)
        self.metrics.waiting.set_function(lambda: self.batcher.waiting)

        gc.collect()
        gc.freeze()  # what is loaded now stays: collections need not look through it again
        self.ready = True

    def check_keys(self, keys: Sequence[Key]) -> None:
        """Check keys against the experts, pilots and documents that there are now; blocks.

        Raises:
            ServerError: a key names what does not exist.
        """
        state = self.model.state
        pilots = state.library.collections() if state.library else ()
        check_keys(keys, experts=state.experts, pilots=pilots, index=self.index)

    def _make_batcher(self) -> Batcher:
        return Batcher(
            BatchEncoder(self.model, self.answering, self.metrics),
            batching=self.settings.batching,
            limits=self.settings.limits,
            workers=self.settings.batching.workers or min(_MOST_WORKERS, self.model.cores),
            observe=self.metrics.batch,
        )

    def _make_services(self, index: Index | None, reranker: Reranker | None) -> None:
        if self.settings.shadow is not None and index is not None:
            self.shadow = self._make_shadow(self.settings.shadow, index)
        self.encoder = TextEncoder(
            model=self.model,
            answering=self.answering,
            shared=self.shared,
            batcher=self.batcher,
            settings=self.settings,
            spans=self.spans,
        )
        self.queries = QueryService(
            answering=self.answering,
            shadow=self.shadow,
            index=index,
            encoder=self.encoder,
            reranker=reranker,
            metrics=self.metrics,
            spans=self.spans,
        )
        self.documents = DocumentService(index=index, encoder=self.encoder)
        self.uploads = UploadService(documents=self.documents, limits=self.settings.limits)
        self.files = None if self.settings.files is None else ServedFiles(self.settings.files)
        self.experts = ExpertService(model=self.model, shared=self.shared, metrics=self.metrics)

    def _make_shadow(self, expert: str, index: Index) -> Shadow:
        return Shadow(
            expert=expert,
            model=self.model,
            index=index,
            metrics=self.metrics,
            is_idle=lambda: self.batcher.waiting == 0,
            log=self.settings.shadow_log,
            limit=self.settings.limits.feedback_bytes,
        )

    def close(self) -> None:
        """Finish what was accepted; blocks."""
        if self.ready:
            self.ready = False
            self.batcher.close()
        if self.shadow is not None:
            self.shadow.close()
        self.spans.close()
