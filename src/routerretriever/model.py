"""RouterRetriever: the product. A Sentence Transformers model with experts and a router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, overload

from torch import nn

from routerretriever.data.collection import Collection
from routerretriever.encoder.base_files import check_types
from routerretriever.encoder.base_models import base_info, load_base, stated_licence
from routerretriever.encoder.expert_methods import ExpertMethods
from routerretriever.encoder.pairs import pair_prompts, pair_up, sides_of
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.encoder.sentence_model import RoutedSentenceModel
from routerretriever.engine.choose import opened_engine
from routerretriever.engine.compiled_model import CompiledModel
from routerretriever.errors import LibraryError, ModelError
from routerretriever.evaluation.gains import build_library
from routerretriever.kernels.exact_search import SIMILARITIES
from routerretriever.progress import Progress
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import ROUTERS, make_router
from routerretriever.sharing.export import export_expert
from routerretriever.sharing.model_card import model_card
from routerretriever.sharing.save_parts import save_parts
from routerretriever.storage.history import recording
from routerretriever.storage.hub_download import read_folder
from routerretriever.storage.model_folder import (
    ENCODER_CLASS,
    check_modules,
    read_model_info,
)


class RouterRetriever(ExpertMethods, RoutedSentenceModel):
    """One frozen base encoder, any number of experts on the query side, and a router between them.

    ``encode_document`` is the base's, whatever happens to the experts. ``encode_query`` routes every
    query in the same forward pass; ``encode_query(texts, expert="scifact")`` pins an expert, ``"base"``
    or ``"merged"``. ``encode`` without a task is the base's.

    Use :meth:`create` for a new model and :meth:`from_pretrained` for a saved one.
    """

    # Lets Sentence Transformers load our module without trusting code from the model's folder.
    _module_classes: ClassVar[Mapping[str, type[nn.Module]]] = {ENCODER_CLASS: RoutedEncoder}  # type: ignore[misc]

    # -- creating and loading ----------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        base: str = "all-MiniLM-L6-v2",
        *,
        branch_layer: int | None = None,
        route_layer: int | None = None,
        similarity: str | None = None,
        device: str | None = None,
        endpoint: str | None = None,
        query_base: str | None = None,
    ) -> Self:
        """Create a model without experts.

        Args:
            base: hub id or path of a Sentence Transformers or transformers encoder, or an ONNX file with
                its tokeniser beside it. ``all-MiniLM-L6-v2`` means the weights of the ``minilm`` extra
                where it is installed; ``openai:MODEL`` a model behind an OpenAI-compatible endpoint.
            branch_layer: first layer that experts may change; default the upper half.
            route_layer: where the router reads; default the branch layer, which costs no second pass.
                ``-1`` means the final embedding, at the price of a second pass.
            similarity: ``cosine`` or ``dot``; default what the base says, else cosine.
            device: torch device; default the best one present.
            endpoint: address that ends in /v1, of an ``openai:`` base; default ``$OPENAI_BASE_URL``,
                else OpenAI's own. The key is read from ``$OPENAI_API_KEY`` and never saved.
            query_base: encodes the queries, and has the experts, while ``base`` encodes the documents: a
                smaller encoder whose vectors are in the same space. Default ``base``. A Sentence
                Transformers model with a Router for queries and documents is such a pair itself.

        Raises:
            ModelError: the base cannot be loaded, is not a supported encoder, has another
                similarity, or cuts its vectors; or queries and documents are not in one space.
        """
        plain = load_base(base, device, endpoint)
        of_queries = None if query_base is None else load_base(query_base, device)
        chosen = similarity or str(plain.similarity_fn_name)
        if chosen not in SIMILARITIES:
            raise ModelError(
                f"The similarity '{chosen}' of '{base}' is not supported. If the base ranks as well by another one, "
                "pass similarity='cosine' or similarity='dot'; else choose another base."
            )
        sides = sides_of(base, plain, of_queries)
        prompts = {name: prompt for name, prompt in pair_prompts(plain, of_queries).items() if prompt}
        encoder = _encoder(sides.queries, query_base or base, branch_layer, route_layer)
        if sides.documents is not None:
            pair_up(encoder, _encoder(sides.documents, base), prompts)
        return cls(
            modules=[encoder],
            device=device,
            prompts=prompts,
            default_prompt_name=plain.default_prompt_name if plain.default_prompt_name in prompts else None,
            similarity_fn_name=chosen,  # type: ignore[arg-type]
        )

    @classmethod
    def create_like_paper(cls, base: str = "facebook/contriever", *, device: str | None = None) -> Self:
        """Create a model in the setting of arXiv 2409.02685: experts in all layers, two passes, dot product."""
        return cls.create(base, branch_layer=0, route_layer=-1, similarity="dot", device=device)

    @property
    def is_like_paper(self) -> bool:
        """Whether the model has the setting of :meth:`create_like_paper`."""
        encoder = self.encoder
        own = (encoder.branch_layer, encoder.route_layer, self.similarity_fn_name)
        return own == (0, encoder.num_layers, "dot")

    @overload
    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        engine: Literal["torch"] = "torch",
        device: str | None = None,
        **kwargs: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, engine: str, device: str | None = None, **kwargs: Any
    ) -> Self | CompiledModel: ...

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, engine: str = "torch", device: str | None = None, **kwargs: Any
    ) -> Self | CompiledModel:
        """Load a saved model from a directory, or ``user/name`` from the hub, there also of a ``revision``.

        Args:
            path: a folder, or ``user/name`` or ``user/name@revision`` where there is no folder of that name.
            engine: ``torch``; ``onnx`` or ``auto`` return what :func:`routerretriever.opening.open_model` does.
            device: torch device; default the best one present.
            kwargs: ``revision``, and what Sentence Transformers takes.

        Raises:
            HubError: it is not on the hub, or that cannot be reached.
            FormatError: it is missing, damaged, not a RouterRetriever model, or of a newer format.
            FingerprintError: base, experts and pilots do not belong together.
            SilentExpertError: an expert changes nothing.
        """
        source = read_folder(path, revision=kwargs.pop("revision", None))
        compiled = opened_engine(source, path, engine=engine, device=device)
        if compiled is not None:
            return compiled
        read_model_info(source)
        check_modules(source)
        return cls(str(source), device=device, **kwargs)

    # -- saving ------------------------------------------------------------------------------------

    def save(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Write the model; what is at ``path`` stays whole until the new one is complete.

        What changed goes into the log of :class:`routerretriever.History`.

        Raises:
            StorageError: the disk is full or the folder is not writable.
            ModelError: ``path`` holds something that is not a model.
        """
        target = Path(path).expanduser()
        if target.is_dir() and any(target.iterdir()) and not (target / "modules.json").exists():
            raise ModelError(f"{target} is not empty and not a model. Choose another folder.")
        with recording(target, self.encoder.parts()) as staging:
            super().save(str(staging), *args, **kwargs)

    def save_pretrained(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Same as :meth:`save`."""
        self.save(str(path), *args, **kwargs)

    def save_experts(self, path: str | Path) -> None:
        """Write experts and pilots into a saved model of the same base, whose other files stay as they are.

        Raises:
            FormatError: there is no model at ``path``.
            FingerprintError: it has another base.
            StorageError: it could not be written; what was there is unchanged.
        """
        save_parts(self.encoder.parts(), self.document_length, path)

    def _create_model_card(self, path: str, *args: Any, **kwargs: Any) -> None:
        Path(path, "README.md").write_text(
            model_card(self.encoder.parts(), self.document_length), encoding="utf-8"
        )

    # -- experts -----------------------------------------------------------------------------------

    def export_expert(self, name: str, path: str | Path, *, licence: str | None = None) -> Path:
        """Write one expert, or ``merged``, as a plain query encoder.

        Arguments and errors are those of :func:`routerretriever.sharing.export.export_expert`.

        Raises:
            ExpertError: there is no such expert.
            ModelError: ``path`` holds something.
            StorageError: it could not be written; nothing is left there.
        """
        return export_expert(self, name, path, licence=licence)

    # -- library and routing -----------------------------------------------------------------------

    def build_library(
        self,
        collections: Sequence[Collection],
        *,
        router: str | None = None,
        progress: Progress | None = None,
    ) -> PilotLibrary:
        """Measure the experts on the collections' held-out queries, and route with the result.

        Pilots of these collections are added or renewed; those of others stay. So do the settings
        of :meth:`set_policy`, with another router, too; those that it ignores count again
        once ``gain`` is back.

        Args:
            collections: each needs a train split.
            router: ``gain`` (default), ``pilot-mean`` (the paper's rule) or ``pilot-max`` (the official
                code's); ``None`` keeps the present one.
        """
        policy = self.state.policy
        router = router or (policy.router.name if policy else "gain")
        if router not in ROUTERS:
            raise LibraryError(f"There is no router '{router}'. Choose one of: {', '.join(ROUTERS)}.")
        partition = "cluster" if ROUTERS[router].knows_base else "best-expert"
        built = build_library(self, collections, partition=partition, progress=progress)
        if policy is None:
            changed = RoutingPolicy(make_router(router, built))
        elif policy.router.name == router:
            changed = policy.over(built)
        else:
            changed = replace_fields(policy, router=make_router(router, built))
        self.state = self.state.with_policy(changed)
        return built


def _encoder(
    modules: Sequence[nn.Module], name: str, branch_layer: int | None = None, route_layer: int | None = None
) -> RoutedEncoder:
    """Wrap the modules of a base, which is called ``name``."""
    check_types(modules)
    body, *head = modules
    encoder = RoutedEncoder(body, head, branch_layer, route_layer)
    encoder.base = replace_fields(base_info(name), licence=stated_licence(name))
    return encoder
