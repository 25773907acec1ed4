"""Documents: our bulk encoding against sentence-transformers' own, and what bfloat16 and 8 bits cost in quality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from speed_models import texts_of
from speed_setting import Setting, said
from speed_timing import Machine, encoder_flops, paired, summary, using_threads

from routerretriever import RouterRetriever
from routerretriever.encoder.bulk_documents import encode_documents
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.kernels.quantization import has_bfloat16

LENGTHS = (64, 256, 512)
TOKENS = 6144  # of all texts of one measurement
SAMPLE = 64  # real documents of one measurement
COLLECTIONS = ("scifact", "nl2bash")
TOLERANCE = 1e-4


def run(setting: Setting) -> dict[str, Any]:
    """Texts of one length, real documents of all lengths, and nDCG@10 with the vectors of each precision."""
    model = RouterRetriever.from_pretrained(setting.model, device=setting.device)
    encoders = Encoders(
        model, setting.base(), setting.base().bfloat16() if has_bfloat16(model.device) else None
    )
    longest, rows = model.encoder.max_seq_length or max(LENGTHS), []
    for threads in (1, 2):
        machine = setting.machine(threads)
        with using_threads(threads):
            encoders.read_up_to(max(LENGTHS))
            for length in LENGTHS:
                texts = texts_of(model, setting.queries, TOKENS // length, length)
                rows += encoders.measured({"threads": threads, "documents": str(length)}, texts, machine)
            encoders.read_up_to(longest)
            for name in COLLECTIONS:
                contents = setting.collection(name).contents
                texts = [
                    contents[n] for n in np.random.default_rng(0).choice(len(contents), SAMPLE, replace=False)
                ]
                rows += encoders.measured({"threads": threads, "documents": name}, texts, machine)
    left_out = None if encoders.half is not None else "bf16: this processor has no instructions for it"
    return {
        "rows": rows,
        "left out": left_out,
        "quality": [said(_quality(setting, model, n)) for n in COLLECTIONS],
    }


@dataclass(frozen=True)
class Encoders:
    """Ours, the plain base, and the plain base in bfloat16 where that is fast."""

    model: RouterRetriever
    base: SentenceTransformer
    half: SentenceTransformer | None

    def read_up_to(self, tokens: int) -> None:
        """Let all of them read texts of so many tokens."""
        self.model.encoder.max_seq_length = tokens
        for plain in (self.base, self.half):
            if plain is not None:
                plain.max_seq_length = tokens

    def measured(self, facts: dict[str, Any], texts: list[str], machine: Machine) -> list[dict[str, Any]]:
        """The same documents through all of them in turn; a row for each of our precisions, fp32 first."""
        base, half = self.base, self.half
        peers: dict[str, Callable[[], Any]] = {"sentence-transformers": lambda: base.encode_document(texts)}
        if half is not None:
            peers["sentence-transformers, bf16"] = lambda: half.encode_document(texts, convert_to_tensor=True)
        ours = {
            name: partial(encode_documents, self.model, texts, precision=name)
            for name in precisions(self.model)
        }
        difference = float(np.abs(ours["fp32"]() - peers["sentence-transformers"]()).max())
        if difference > TOLERANCE:
            raise SystemExit(f"Our document vectors differ by {difference:.2g}.")
        encoder, times = self.model.encoder, paired(ours | peers)
        flops = sum(encoder_flops(encoder.body.model, n, n) for n in encoder.token_counts(texts))
        rows = []
        for name in ours:
            compared = {"ours": times[name]} | {peer: times[peer] for peer in peers}
            about = facts | {"texts": len(texts), "precision": name, "largest difference": difference}
            rows.append(said(about | summary(compared, "ours", flops / machine.fp32_per_second)))
        return rows


def precisions(model: RouterRetriever) -> list[str]:
    """Those in which the device computes fast."""
    half = ["bf16"] if has_bfloat16(model.device) else []
    return ["fp32", *half, *(["int8"] if model.device.type == "cpu" else [])]


def _quality(setting: Setting, model: RouterRetriever, name: str) -> dict[str, Any]:
    """nDCG@10 × 100 of test queries with documents in every precision."""
    collection = setting.collection(name)
    split = collection.split("test").sample(500)
    texts = list(split.queries.values())
    queries = {e: model.encode_query(texts, expert=e) for e in ("base", name) if e in model.state.candidates}
    result: dict[str, Any] = {"collection": name, "queries": len(split)}
    for precision in precisions(model):
        encoded = model.embed_texts(collection.contents, precision=precision)
        documents = DocumentVectors.whole(collection.documents, encoded)
        for expert, vectors in queries.items():
            score = ndcg_at_10(vectors, split, documents, collection).mean()
            result[f"{'base' if expert == 'base' else 'expert'}, {precision}"] = round(100 * float(score), 2)
    return result
