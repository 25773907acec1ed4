"""Find what is wrong with a model's folder, and say what to do about it; the model need not load."""

from __future__ import annotations

import shlex
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.errors import HistoryError, RouterRetrieverError
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.arithmetic import cosines
from routerretriever.lora.expert_files import load_expert
from routerretriever.lora.expert_info import check_expert_name
from routerretriever.lora.fits import check_fits
from routerretriever.lora.layers import shapes
from routerretriever.routing.form_pilots import stale_experts
from routerretriever.routing.pilot_files import PILOT_INFO, PILOT_TENSORS, load_pilots
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.storage.history import CARD, History, state_files
from routerretriever.storage.history_entry import Entry
from routerretriever.storage.hub_download import read_folder
from routerretriever.storage.model_folder import EXPERTS, read_expert_info, read_model_info, read_policy

ERROR, WARNING, NOTE = "error", "warning", "note"
FEW_QUERIES = 30
"""Fewer measured queries say little of a collection: the router asks the 30 nearest pilots."""
DUPLICATE = 0.99
"""Two experts whose LoRA deltas have this cosine or more are taken for copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
        """Return plain data for JSON."""
        return asdict(self)


def diagnose(path: str | Path) -> list[Finding]:
    """Return everything that is wrong with the model in a folder or on the hub, errors first.

    Raises:
        FormatError: there is no model, or its description cannot be read at all.
    """
    root = read_folder(path)
    info = read_model_info(root)
    findings = list(_findings(_SavedModel(root=root, info=info)))
    return sorted(findings, key=lambda finding: (ERROR, WARNING, NOTE).index(finding.severity))


@dataclass(frozen=True, slots=True, kw_only=True)
class _SavedModel:
    """The model to diagnose, and the advice that names its folder.

    Attributes:
        root: its folder.
        info: content of its ``routerretriever.json``.
    """

    root: Path
    info: dict[str, Any]

    @property
    def path(self) -> str:
        """The folder as it is written in a command."""
        return shlex.quote(str(self.root))

    def measure(self, collections: Iterable[str] = ()) -> str:
        """Return the command that measures the experts; a model does not record where its collections are."""
        names = ", ".join(f"'{name}'" for name in collections) or "the experts' collections"
        return f"routerretriever library {self.path} COLLECTION… (COLLECTION…: the folders or hub names of {names})"

    def replace(self, name: str, now: str | None = None) -> str:
        """Return how to get a working version of an expert, with another fingerprint than ``now``."""
        other = (
            f"train it again: routerretriever train {self.path} COLLECTION --name {name} --force "
            "(COLLECTION: the folder or hub name of its training data)"
        )
        number = self.whole(lambda entry: entry.experts.get(name) not in (None, now))
        if number is None:
            return f"Restore experts/{name} from a copy, or {other}"
        return f"Restore an intact version: routerretriever experts rollback {self.path} {number}; or {other}"

    def whole(self, fits: Callable[[Entry], bool]) -> int | None:
        """Return the number of the newest entry that fits and can be restored, if there is one."""
        try:
            history = History(self.root)
        except HistoryError:
            return None
        for entry in reversed(history.entries):
            if fits(entry) and not history.missing(entry):
                return entry.number
        return None


def _findings(model: _SavedModel) -> Iterator[Finding]:
    yield from _history(model)
    try:
        encoder = RoutedEncoder.load_base(model.root, model.info)
    except Exception as error:  # whatever Transformers and Torch make of damaged files
        message = f"The base cannot be loaded ({type(error).__name__}: {error})."
        yield Finding(
            severity=ERROR,
            check="base",
            subject="base",
            message=message,
            fix=f"Restore the base's files ({model.info['base']['id']}).",
        )
        return
    recorded = model.info["base"]["fingerprint"]
    if encoder.fingerprint != recorded:
        message = f"Its fingerprint is {encoder.fingerprint[:12]}, but the experts were trained for {recorded[:12]}."
        fix = (
            f"Restore the weights and the tokeniser of {model.info['base']['id']}; "
            "otherwise its indexes do not match, either."
        )
        yield Finding(severity=ERROR, check="base", subject="base", message=message, fix=fix)
    experts: OrderedDict[str, Adapter] = OrderedDict()
    yield from _adapters(model, encoder, experts)
    yield from _silent(model, encoder, experts)
    yield from _duplicates(model, experts)
    yield from _pilots(model, encoder, experts)


def _history(model: _SavedModel) -> Iterator[Finding]:
    try:
        history = History(model.root)
    except HistoryError as error:
        yield Finding(
            severity=ERROR,
            check="history",
            subject="log",
            message=str(error),
            fix="Nothing can be saved in this folder until the log is repaired or moved away.",
        )
        return
    if not history.entries:
        message = "The model has no history: it was saved by an older version, or comes from the hub."
        yield Finding(
            severity=NOTE,
            check="history",
            subject="log",
            message=message,
            fix="Nothing to do: the next save starts one.",
        )
        return
    last, now = history.entries[-1], state_files(model.root)
    fix = "Restore the file from a copy."
    if not history.missing(last):
        fix = f"Restore the saved state: routerretriever experts rollback {model.path} {last.number}"
    for file, digest in last.files.items():
        if now.get(file) != digest and file != CARD:
            severity, state = ERROR, "is missing"
            if file in now:
                severity, state = WARNING, "is not what was saved"
            yield Finding(severity=severity, check="files", subject=file, message=f"{file} {state}.", fix=fix)


def _adapters(
    model: _SavedModel, encoder: RoutedEncoder, experts: OrderedDict[str, Adapter]
) -> Iterator[Finding]:
    for name in model.info["experts"]:
        folder = model.root / EXPERTS / name
        try:
            check_expert_name(name)
            adapter = load_expert(folder, encoder.lora_layers)
            check_fits(adapter, shapes(encoder.adapted_layers), "It")
            read_expert_info(folder)
        except (RouterRetrieverError, RuntimeError) as error:
            yield Finding(
                severity=ERROR, check="expert", subject=name, message=str(error), fix=model.replace(name)
            )
            continue
        experts[name] = adapter
    present = [path.name for path in (model.root / EXPERTS).glob("*") if path.is_dir()]
    for name in sorted(set(present) - set(model.info["experts"])):
        message = f"The folder experts/{name} is not listed in the model; the next save deletes it."
        fix = (
            f"To keep it, copy it elsewhere, to COPY, and add it: routerretriever experts add {model.path} COPY {name} "
            "--collection COLLECTION (once for each collection in the library, by its folder or hub name)"
        )
        yield Finding(severity=WARNING, check="stray", subject=name, message=message, fix=fix)


def _silent(
    model: _SavedModel, encoder: RoutedEncoder, experts: OrderedDict[str, Adapter]
) -> Iterator[Finding]:
    for name in encoder.silent_experts(experts):
        factors = experts[name].parameters()
        broken = not all(bool(np.isfinite(factor).all()) for factor in factors)
        message = "It changes no query vector: its LoRA delta is zero."
        if broken:
            message = "Its weights are not finite."
        yield Finding(
            severity=ERROR,
            check="silent",
            subject=name,
            message=message,
            fix=model.replace(name, experts[name].fingerprint),
        )
        del experts[name]


def _duplicates(model: _SavedModel, experts: OrderedDict[str, Adapter]) -> Iterator[Finding]:
    names = list(experts)
    if len(names) < 2:
        return
    alike = cosines(list(experts.values()))
    for row, name in enumerate(names):
        for column in range(row):
            if float(alike[row, column]) >= DUPLICATE:
                message = f"Its LoRA delta equals that of '{names[column]}' (cosine {float(alike[row, column]):.3f})."
                fix = f"Keep one: routerretriever experts remove {model.path} {name}"
                yield Finding(severity=WARNING, check="duplicate", subject=name, message=message, fix=fix)


def _pilots(
    model: _SavedModel, encoder: RoutedEncoder, experts: OrderedDict[str, Adapter]
) -> Iterator[Finding]:
    if model.info["policy"] is None:
        if model.info["experts"]:
            message = "There is no pilot library, so every query is encoded by the base."
            yield Finding(
                severity=WARNING,
                check="library",
                subject="library",
                message=message,
                fix=f"Build it: {model.measure()}",
            )
        return
    try:
        library, _ = load_pilots(model.root)
        policy = read_policy(
            model.root, model.info["policy"], encoder.fingerprint, tuple(model.info["experts"])
        )
    except (RouterRetrieverError, KeyError, TypeError) as error:
        number = model.whole(lambda entry: PILOT_INFO in entry.files)
        fix = f"Restore {PILOT_INFO} and {PILOT_TENSORS} from a copy."
        if number is not None:
            fix = f"Restore the saved state: routerretriever experts rollback {model.path} {number}"
        yield Finding(severity=ERROR, check="library", subject=PILOT_INFO, message=str(error), fix=fix)
        return
    yield from _stale(model, library, experts)
    if policy is not None:
        yield from _coverage(model, library, policy)


def _stale(
    model: _SavedModel, library: PilotLibrary, experts: OrderedDict[str, Adapter]
) -> Iterator[Finding]:
    versions = {name: adapter.fingerprint for name, adapter in experts.items()}
    for name in stale_experts(library, versions):
        message = "Its gains were measured on another version of the expert, so queries are routed by wrong figures."
        fix = f"Measure it again: {model.measure(library.collections())}"
        yield Finding(severity=ERROR, check="stale", subject=name, message=message, fix=fix)
    measured = [library.experts[k] for k in np.flatnonzero(np.isfinite(library.gains).any(axis=0))]
    unknown = [name for name in measured if name not in library.versions]
    for name in unknown:
        message = "The version of the expert that was measured is not recorded."
        fix = f"Measure it again, so that the version can be checked: {model.measure(library.collections())}"
        yield Finding(severity=NOTE, check="stale", subject=name, message=message, fix=fix)


def _coverage(model: _SavedModel, library: PilotLibrary, policy: RoutingPolicy) -> Iterator[Finding]:
    gaps = library.unmeasured()
    for name, missing in gaps.items():
        everywhere = len(missing) == len(library.collections())
        where = f"on {', '.join(missing)}"
        if everywhere:
            where = "anywhere, so nothing is routed to it"
        fix = f"Measure it: {model.measure(missing)}"
        yield Finding(
            severity=WARNING,
            check="coverage",
            subject=name,
            message=f"It was never measured {where}.",
            fix=fix,
        )
    sources, measured = np.array(library.sources), library.measured
    for collection in library.collections():
        queries = int(library.counts[(sources == collection) & measured].sum())
        if queries < FEW_QUERIES:
            message = f"Only {queries} held-out queries of this collection were measured, too few to rely on."
            again = model.measure([collection])
            fix = f"Add queries until at least {FEW_QUERIES} are held out, and measure it again: {again}"
            yield Finding(severity=WARNING, check="coverage", subject=collection, message=message, fix=fix)
    chosen = set(policy.decide(library.centroids).chosen.tolist())
    for column, name in enumerate(library.experts, start=2):
        if column not in chosen and len(gaps.get(name, ())) < len(library.collections()):
            message = "The router chooses this expert for no pilot: it never wins."
            remove = f"routerretriever experts remove {model.path} {name}"
            fix = (
                f"If its collection is not in the library, measure it on that; otherwise remove it: {remove}"
            )
            yield Finding(severity=WARNING, check="coverage", subject=name, message=message, fix=fix)
