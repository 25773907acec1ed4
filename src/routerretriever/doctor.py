"""What is wrong with a model's folder, and what to do about it; the model need not load for it."""

from __future__ import annotations

import shlex
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.errors import HistoryError, RouterRetrieverError
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.arithmetic import cosines
from routerretriever.lora.expert_info import check_expert_name
from routerretriever.lora.peft_files import load_adapter
from routerretriever.routing.form_pilots import stale_experts
from routerretriever.routing.pilot_files import PILOT_INFO, PILOT_TENSORS, load_pilots
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.storage.history import CARD, Entry, History, state_files
from routerretriever.storage.hub_download import read_folder
from routerretriever.storage.model_folder import EXPERTS, read_expert_info, read_model_info, read_policy

ERROR, WARNING, NOTE = "error", "warning", "note"
FEW_QUERIES = 30
"""Fewer measured queries say little of a collection: the router asks the 30 nearest pilots."""
DUPLICATE = 0.99
"""Cosine of two updates from which on they are taken for copies."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: ``error`` (the model does not load, or gives wrong results), ``warning``, or ``note``.
        check: base, files, expert, silent, stray, duplicate, library, stale, coverage or history.
        subject: the expert, collection or file.
        message: what is wrong.
        fix: what to do, with a command where there is one.
    """

    severity: str
    check: str
    subject: str
    message: str
    fix: str

    def to_dict(self) -> dict[str, str]:
        """Plain data for JSON."""
        return asdict(self)


def examine(path: str | Path) -> list[Finding]:
    """Look for everything that can be wrong with the model in a folder (or of a name on the hub), errors first.

    Raises:
        FormatError: there is no model, or its description cannot be read at all.
    """
    root = read_folder(path)
    info = read_model_info(root)
    findings = list(_Examination(root, info).findings())
    return sorted(findings, key=lambda finding: (ERROR, WARNING, NOTE).index(finding.severity))


class _Examination:
    """The checks of one model, in the order of what they need."""

    def __init__(self, root: Path, info: dict[str, Any]) -> None:
        self.root, self.info = root, info
        self.path = shlex.quote(str(root))

    def measure(self, collections: Iterable[str] = ()) -> str:
        """The command that measures; where the data of collections lies, a model does not know."""
        names = ", ".join(f"'{name}'" for name in collections) or "what its experts are for"
        return f"routerretriever library {self.path} COLLECTION… (COLLECTION…: the folders or hub names of {names})"

    def findings(self) -> Iterator[Finding]:
        yield from self.history()
        try:
            encoder = RoutedEncoder.load_base(self.root, self.info)
        except Exception as error:  # whatever Transformers and Torch make of damaged files
            message = f"The base cannot be loaded ({type(error).__name__}: {error})."
            yield Finding(ERROR, "base", "base", message, f"Restore the base's files ({self.info['base']['id']}).")
            return
        recorded = self.info["base"]["fingerprint"]
        if encoder.fingerprint != recorded:
            message = f"Its fingerprint is {encoder.fingerprint[:12]}, the experts were trained for {recorded[:12]}."
            fix = f"Restore the weights and the tokeniser of {self.info['base']['id']}; its index would not fit either."
            yield Finding(ERROR, "base", "base", message, fix)
        experts: OrderedDict[str, Adapter] = OrderedDict()
        yield from self.adapters(encoder, experts)
        yield from self.silent(encoder, experts)
        yield from self.duplicates(experts)
        yield from self.pilots(encoder, experts)

    # -- files -------------------------------------------------------------------------------------

    def history(self) -> Iterator[Finding]:
        try:
            history = History(self.root)
        except HistoryError as error:
            yield Finding(ERROR, "history", "log", str(error), "Until then nothing can be saved here.")
            return
        if not history.entries:
            message = "The model has no history: it was saved by an older version, or comes from the hub."
            yield Finding(NOTE, "history", "log", message, "The next save begins one.")
            return
        last, now = history.entries[-1], state_files(self.root)
        fix = "Restore the file from a copy."
        if not history.missing(last):
            fix = f"Put back what was saved: routerretriever experts rollback {self.path} {last.number}"
        for file, digest in last.files.items():
            if now.get(file) != digest and file != CARD:
                state = "is missing" if file not in now else "is not what was saved"
                yield Finding(WARNING if file in now else ERROR, "files", file, f"{file} {state}.", fix)

    def adapters(self, encoder: RoutedEncoder, experts: OrderedDict[str, Adapter]) -> Iterator[Finding]:
        for name in self.info["experts"]:
            folder = self.root / EXPERTS / name
            try:
                check_expert_name(name)
                adapter = load_adapter(folder, encoder.lora_layers)
                read_expert_info(folder)
            except (RouterRetrieverError, RuntimeError) as error:
                yield Finding(ERROR, "expert", name, str(error), self.replace(name))
                continue
            misfit = [
                layer
                for layer, (a, b) in adapter.factors.items()
                if (b.shape[0], a.shape[1]) != tuple(encoder.lora_layers[layer].weight.shape)
            ]
            if misfit:
                message = f"It does not fit the base: {misfit[0]} has another size."
                yield Finding(ERROR, "expert", name, message, self.replace(name))
                continue
            experts[name] = adapter
        present = [path.name for path in (self.root / EXPERTS).glob("*") if path.is_dir()]
        for name in sorted(set(present) - set(self.info["experts"])):
            message = f"experts/{name} is a folder that the model does not know; the next save deletes it."
            fix = (
                f"Copy it elsewhere, to COPY, and add it: routerretriever experts add {self.path} COPY {name} "
                "--collection COLLECTION (the option once for the folder or hub name of each collection in the library)"
            )
            yield Finding(WARNING, "stray", name, message, fix)

    def replace(self, name: str, now: str | None = None) -> str:
        """The way to a whole expert, which is one of another fingerprint than it has now."""
        other = (
            f"train it again: routerretriever train {self.path} COLLECTION --name {name} --force "
            "(COLLECTION: the folder or hub name of what it is for)"
        )
        number = self.whole(lambda entry: entry.experts.get(name) not in (None, now))
        if number is None:
            return f"Restore experts/{name} from a copy, or {other}"
        return f"Return to a whole version: routerretriever experts rollback {self.path} {number}; or {other}"

    def whole(self, fits: Callable[[Entry], bool]) -> int | None:
        """The last such entry of the history that can be returned to."""
        try:
            history = History(self.root)
        except HistoryError:
            return None
        return next((e.number for e in reversed(history.entries) if fits(e) and not history.missing(e)), None)

    # -- experts -----------------------------------------------------------------------------------

    def silent(self, encoder: RoutedEncoder, experts: OrderedDict[str, Adapter]) -> Iterator[Finding]:
        for name in encoder.silent_experts(experts):
            factors = experts[name].parameters()
            broken = not all(bool(torch.isfinite(factor).all()) for factor in factors)
            message = "Its weights are not finite." if broken else "It changes no query vector: its update is zero."
            yield Finding(ERROR, "silent", name, message, self.replace(name, experts[name].fingerprint))
            del experts[name]

    def duplicates(self, experts: OrderedDict[str, Adapter]) -> Iterator[Finding]:
        names = list(experts)
        if len(names) < 2:
            return
        alike = cosines(list(experts.values()))
        for row, name in enumerate(names):
            for column in range(row):
                if float(alike[row, column]) >= DUPLICATE:
                    message = f"Its update is that of '{names[column]}' (cosine {float(alike[row, column]):.3f})."
                    fix = f"Keep one: routerretriever experts remove {self.path} {name}"
                    yield Finding(WARNING, "duplicate", name, message, fix)

    # -- library -----------------------------------------------------------------------------------

    def pilots(self, encoder: RoutedEncoder, experts: OrderedDict[str, Adapter]) -> Iterator[Finding]:
        if self.info["policy"] is None:
            if self.info["experts"]:
                message = "There is no pilot library, so every query is encoded by the base."
                yield Finding(WARNING, "library", "library", message, f"Build it: {self.measure()}")
            return
        try:
            library, _ = load_pilots(self.root)
            policy = read_policy(self.root, self.info["policy"], encoder.fingerprint, tuple(self.info["experts"]))
        except (RouterRetrieverError, KeyError, TypeError) as error:
            number = self.whole(lambda entry: PILOT_INFO in entry.files)
            fix = f"Restore {PILOT_INFO} and {PILOT_TENSORS} from a copy."
            if number is not None:
                fix = f"Put back what was saved: routerretriever experts rollback {self.path} {number}"
            yield Finding(ERROR, "library", PILOT_INFO, str(error), fix)
            return
        yield from self.stale(library, experts)
        if policy is not None:
            yield from self.coverage(library, policy)

    def stale(self, library: PilotLibrary, experts: OrderedDict[str, Adapter]) -> Iterator[Finding]:
        versions = {name: adapter.fingerprint for name, adapter in experts.items()}
        for name in stale_experts(library, versions):
            message = "Its gains were measured with another version of it, so that queries are routed by wrong figures."
            fix = f"Measure it again: {self.measure(library.collections())}"
            yield Finding(ERROR, "stale", name, message, fix)
        measured = [library.experts[k] for k in np.flatnonzero(np.isfinite(library.gains).any(axis=0))]
        unknown = [name for name in measured if name not in library.versions]
        for name in unknown:
            message = "It is not recorded which version of it was measured."
            fix = f"Measure it again to have that checked: {self.measure(library.collections())}"
            yield Finding(NOTE, "stale", name, message, fix)

    def coverage(self, library: PilotLibrary, policy: RoutingPolicy) -> Iterator[Finding]:
        gaps = library.unmeasured()
        for name, missing in gaps.items():
            everywhere = len(missing) == len(library.collections())
            where = "anywhere, so nothing is routed to it" if everywhere else f"on {', '.join(missing)}"
            fix = f"Measure it: {self.measure(missing)}"
            yield Finding(WARNING, "coverage", name, f"It was never measured {where}.", fix)
        sources, measured = np.array(library.sources), library.measured
        for collection in library.collections():
            queries = int(library.counts[(sources == collection) & measured].sum())
            if queries < FEW_QUERIES:
                message = f"Only {queries} held-out queries of it were measured, which says little."
                again = self.measure([collection])
                fix = (
                    f"Give it more queries, so that at least {FEW_QUERIES} are held out, and measure it again: {again}"
                )
                yield Finding(WARNING, "coverage", collection, message, fix)
        chosen = set(policy.decide(torch.from_numpy(library.centroids)).chosen.tolist())
        for column, name in enumerate(library.experts, start=2):
            if column not in chosen and len(gaps.get(name, ())) < len(library.collections()):
                message = "The router takes it for none of its pilots: it never wins."
                remove = f"routerretriever experts remove {self.path} {name}"
                fix = f"If the library lacks the collection it is for, measure it there; or remove it: {remove}"
                yield Finding(WARNING, "coverage", name, message, fix)
