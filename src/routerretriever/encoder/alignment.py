"""Whether one encoder's queries and another's documents are in one space, measured on probe texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from routerretriever.encoder.adapted_encoder import AdaptedEncoder
from routerretriever.errors import ModelError
from routerretriever.kernels.vectors import Vectors

LEAST = 0.5
"""Share of probe texts that must be nearest to themselves."""
TEXTS = (
    "how to remove a red wine stain from a carpet",
    "the heart pumps blood through arteries and veins",
    "a merge sort divides the list and joins the halves in order",
    "interest rates were raised to slow down inflation",
    "penguins keep their eggs warm on their feet in winter",
    "the contract ends three months after notice is given",
    "plant tomatoes in full sun and water them every morning",
    "a firewall blocks network traffic from unknown addresses",
    "vaccines train the immune system to recognise a virus",
    "the violin is tuned in fifths and played with a bow",
    "volcanoes form where one plate slides below another",
    "reset your password by the link in the e-mail",
    "steel bridges expand on hot summer days",
    "the train to the airport leaves every twenty minutes",
    "bake the bread at high heat until the crust is brown",
    "a jury of twelve found the accused not guilty",
    "solar panels turn sunlight into electric current",
    "the goalkeeper saved the penalty in the last minute",
    "diabetes patients measure the sugar in their blood",
    "copy all files of a folder to another disk",
    "bees dance to show where flowers are",
    "the tenant must pay a deposit before moving in",
    "the novel tells of a sailor lost on an island",
    "aircraft wings create lift by turning air downwards",
    "children learn to read by joining letters and sounds",
    "the company reported higher revenue and lower profit",
    "a broken bone is kept still in a plaster cast",
    "coral reefs bleach when the sea becomes too warm",
    "lost credit cards should be blocked at once",
    "the moon causes high and low tides",
    "monks copied books by hand before printing was invented",
    "sort the rows of a table by two columns",
    "dogs were the first animals that people tamed",
    "passwords are stored as hashes with a random salt",
    "fever and cough are symptoms of influenza",
    "the parliament passed a law on clean air",
    "knead the clay well before you shape a pot",
    "glaciers carve deep valleys into mountains",
    "a lens of glass bends rays of light to one point",
    "claims for lost luggage need a receipt",
    "chess players think several moves ahead",
    "antibiotics do not help against viruses",
    "the engine overheats when coolant is low",
    "wheat prices rose after the dry spring",
    "the painter mixed blue and yellow to get green",
    "parcels that were not collected are sent back",
    "earthquakes are measured by seismometers",
    "an index makes searches in a database faster",
    "babies sleep more than half of the day",
    "the orchestra rehearses on Tuesday evenings",
    "wolves hunt deer in packs",
    "insulate the roof to save energy for heating",
    "the recipe asks for two cups of sugar and an egg",
    "voters elect a mayor every five years",
    "salt lowers the freezing point of water",
    "runners drink water and eat pasta before a marathon",
    "the museum shows coins from ancient Rome",
    "a loop runs until its condition becomes false",
    "the nurse changed the bandage on his knee",
    "cotton shrinks when it is washed too hot",
    "satellites help ships to find their position",
    "the shop is closed on public holidays",
    "earthworms make the soil loose and fertile",
    "the witness described the colour of the car",
)
"""Short texts of many subjects; no two say the same."""


def check_aligned(
    queries: AdaptedEncoder,
    documents: AdaptedEncoder,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
) -> float:
    """Return the share of probe texts that are nearest to themselves, one encoded as a query, all as documents.

    Args:
        queries: encodes queries.
        documents: encodes documents.
        query_prompt: put before queries.
        document_prompt: put before documents.

    Raises:
        ModelError: the encoders have vectors of other lengths, or the share is below :data:`LEAST`.
    """
    if queries.dimension != documents.dimension:
        raise ModelError(
            f"The query base has vectors of {queries.dimension} numbers and the base of documents of "
            f"{documents.dimension}, so they cannot be compared. Choose a query base that was trained for this base of "
            "documents."
        )
    found = _unit(queries, query_prompt) @ _unit(documents, document_prompt).T
    share = float(np.mean(found.argmax(axis=1) == np.arange(len(TEXTS))))
    if not share >= LEAST:
        raise ModelError(
            f"The two bases are not aligned: of {len(TEXTS)} short texts, {share:.0%} encoded as queries are nearest "
            f"to themselves encoded as documents; at least {LEAST:.0%} is expected, and {1 / len(TEXTS):.0%} is "
            "chance. Choose a query base that was trained or distilled for this base of documents."
        )
    return share


def _unit(encoder: AdaptedEncoder, prompt: str | None) -> Vectors:
    """Return the vectors of the probe texts at unit length (n, d)."""
    encoder.eval()
    parts: Sequence[torch.Tensor] = [
        encoder.encode_plainly(encoder.tokenized([text], prompt))["sentence_embedding"].float()
        for text in TEXTS
    ]
    vectors: Vectors = F.normalize(torch.cat(list(parts)), dim=-1).cpu().numpy()
    return vectors
