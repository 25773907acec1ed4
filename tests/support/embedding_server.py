"""A local ``/v1/embeddings`` that misbehaves on demand."""

import hashlib
import json

import numpy as np
from synthesis_server import Endpoint


def vector_of(text, size=24, seed=0, noise=0.0):
    """A vector that every word has a share in, with some noise."""
    total = np.zeros(size)
    for word in text.split():
        digest = hashlib.blake2b(f"{seed} {word}".encode(), digest_size=4).digest()
        total += np.random.default_rng(int.from_bytes(digest)).standard_normal(size)
    if not total.any():
        total[0] = 1.0
    total += noise * np.random.default_rng().standard_normal(size)
    return (total / np.linalg.norm(total)).tolist()


def answer(texts, **options):
    """The body of a good answer, its vectors in another order than the texts."""
    rows = [{"index": place, "embedding": vector_of(text, **options)} for place, text in enumerate(texts)]
    return {"data": rows[::-1]}


class EmbeddingEndpoint(Endpoint):
    """Answers every request by ``behave(body, number)``: a body, or a status and headers."""

    def __init__(self, behave=None):
        self.behave = behave or (lambda body, number: answer(body["input"], noise=1e-6))
        super().__init__(self._answer)

    def _answer(self, handler, body, number):
        found = self.behave(body, number)
        if isinstance(found, tuple):
            status, headers = found
            return self.reply(handler, b'{"error": "not now"}', status, headers)
        return self.reply(handler, json.dumps(found).encode())

    @property
    def texts(self):
        """All texts that were asked for, in order."""
        return [text for body in self.requests for text in body["input"]]
