"""Write the demo's collections: four trades with a shorthand of their own, and one without.

Documents are plain prose; queries are what an insider would type. Every document is one combination
of facts, and the test queries ask for combinations that no training query asked for, so an expert
has to learn the shorthand rather than the documents. All text was written for this project.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

DOCUMENTS, QUERIES_PER_DOCUMENT = 360, 2
SHARES = {"train": 0.55, "dev": 0.15, "test": 0.30}

Facts = Mapping[str, str]
"""Shorthand → plain words."""


@dataclass(frozen=True)
class Domain:
    """Slots of facts, a template for the document, and templates for the queries."""

    slots: Mapping[str, Facts]
    document: str
    queries: tuple[str, ...]
    title: str = ""


WARD = Domain(
    slots={
        "who": {
            "72M": "an elderly man",
            "68F": "an elderly woman",
            "34M": "a man in his thirties",
            "29F": "a young woman",
            "8yo": "a school-age child",
            "NB": "a newborn baby",
            "G2P1": "a pregnant woman with one earlier birth",
            "LTC res": "a resident of a nursing home",
        },
        "complaint": {
            "SOB": "is short of breath",
            "CP": "has pain in the chest",
            "N/V": "feels sick and is vomiting",
            "AMS": "is newly confused",
            "HA": "has a headache",
            "LOC": "fainted",
            "abd pain": "has a sore belly",
            "BRBPR": "is bleeding from the rectum",
            "dysuria": "feels burning when passing urine",
            "LBP": "has an aching lower back",
        },
        "history": {
            "CHF": "a weak heart",
            "COPD": "long-standing smoker's lung disease",
            "T2DM": "adult-onset sugar sickness",
            "AF on DOAC": "an irregular heartbeat treated with a blood thinner",
            "CKD4": "badly failing kidneys",
            "s/p CABG": "heart bypass surgery",
            "HTN": "high blood pressure",
            "EtOH": "heavy drinking",
            "NKDA": "no known drug allergies",
            "s/p TKR": "an artificial knee",
        },
        "plan": {
            "r/o PE": "a clot in the lung has to be excluded",
            "NPO": "nothing may be taken by mouth",
            "IVF": "fluids run through a vein",
            "CTH": "a scan of the head is ordered",
            "UA + cx": "urine goes to the laboratory",
            "abx": "treatment against bacteria is started",
            "tele": "the heart rhythm is watched continuously",
            "d/c am": "going home is planned for the morning",
            "ortho c/s": "the bone surgeons are asked for advice",
            "DNR": "no resuscitation is wanted",
        },
    },
    document="The patient, {who}, {complaint}. The records mention {history}. For now {plan}.",
    queries=("{who} {complaint}, {history}, {plan}", "{history} pt w/ {complaint}, {plan} ({who})"),
)

NOTAM = Domain(
    slots={
        "what": {
            "RWY 09L": "The northern landing strip",
            "TWY B": "The second rolling lane for aircraft",
            "APN S": "The southern parking area",
            "ILS 27": "The precision landing guidance from the west",
            "PAPI": "The row of glide angle lamps",
            "VOR": "The radio beacon for navigation",
            "TWR": "The control cabin",
            "ALS": "The lights leading to the threshold",
            "ATIS": "The recorded weather broadcast",
            "HLS": "The pad for helicopters",
        },
        "state": {
            "CLSD": "cannot be used at all",
            "U/S": "is out of order",
            "LTD": "is available with restrictions",
            "PPR": "needs permission in advance",
            "OTS": "is switched off",
            "NML OPS": "is working again as usual",
            "WIP": "is being repaired",
            "DSPLCD": "has been moved",
        },
        "why": {
            "BIRD HZD": "flocks of animals were seen",
            "SNOCLO": "winter weather covers the ground",
            "FOD": "loose objects were found on the surface",
            "OBST CRANE": "a tall building machine stands nearby",
            "AIRSHOW": "a flying display takes place",
            "UAS ACT": "unmanned craft are flying",
            "STAFF SHTG": "too few people are on duty",
            "VA": "ash from an eruption drifts in the air",
            "LSR": "pilots reported dazzling beams",
        },
        "when": {
            "H24": "all day and night",
            "SR-SS": "from dawn until dusk",
            "HN": "during the night hours",
            "UFN": "until somebody announces otherwise",
            "DLY": "every day of the week",
            "WEF 0600": "from six in the morning",
            "TIL 31ST": "until the end of the month",
            "MON-FRI": "on working days only",
        },
    },
    document="{what} {state} because {why}. This holds {when}.",
    queries=("{what} {state} DUE {why} {when}", "{when} {what} {state} - {why}"),
)

LATIN = Domain(
    slots={
        "doctrine": {
            "res judicata": "A question that was finally decided cannot be brought again",
            "stare decisis": "Earlier rulings of higher courts have to be followed",
            "mens rea": "Punishment needs a guilty state of mind",
            "actus reus": "Punishment needs an outward deed",
            "habeas corpus": "A detained person must be brought before a judge",
            "ultra vires": "Whoever acts beyond the powers granted acts without effect",
            "nemo dat": "Nobody can transfer more rights than they hold",
            "caveat emptor": "The buyer bears the risk of faults",
            "volenti": "Whoever consents to a danger cannot complain of harm",
            "contra proferentem": "Unclear wording counts against the side that wrote it",
            "quantum meruit": "Work done without an agreed price earns reasonable pay",
            "force majeure": "Events beyond anyone's control excuse performance",
        },
        "posture": {
            "ex parte": "with only one side heard",
            "in camera": "behind closed doors",
            "de novo": "looking at everything afresh",
            "sua sponte": "on the court's own initiative",
            "pro se": "with a party who has no lawyer",
            "inter alia": "among several other points",
            "ad interim": "for the time being",
            "en banc": "before all the judges together",
        },
        "matter": {
            "re: decedent": "the estate of somebody who died",
            "re: lessee": "a tenant in arrears",
            "re: bailee": "goods left in somebody's keeping",
            "re: feme covert": "a married woman's property",
            "re: infans": "the custody of a child",
            "re: chattels": "movable belongings",
            "re: flotsam": "cargo washed ashore",
            "re: mala fides": "a dishonest dealer",
            "re: usufruct": "the right to live off another's land",
            "re: cestui que": "the person a trust provides for",
        },
        "remedy": {
            "certiorari": "the file was called up for review",
            "mandamus": "an official was ordered to act",
            "nolle pros": "the charges were dropped",
            "restitutio": "things were put back as they had been",
            "supersedeas": "enforcement was put on hold",
            "subpoena d.t.": "papers had to be handed over",
            "amicus br.": "outsiders offered their opinion",
            "per curiam": "one unsigned opinion was issued",
        },
    },
    document="{doctrine}. The case concerned {matter} and was heard {posture}; in the end {remedy}.",
    queries=("{doctrine} {matter}, {posture}, {remedy}", "{remedy} {posture} - {doctrine} ({matter})"),
)

OPS = Domain(
    slots={
        "service": {
            "kestrel": "The payment gateway",
            "bluefin": "The customer database",
            "tundra": "The image store",
            "marmot": "The login service",
            "quartz": "The search cluster",
            "pelican": "The mail relay",
            "saffron": "The billing job",
            "obelisk": "The message queue",
            "juniper": "The mobile interface",
            "cobalt": "The build farm",
            "heron": "The recommendation engine",
            "basalt": "The backup vault",
        },
        "symptom": {
            "wobbling": "answers slowly now and then",
            "redlining": "uses all of its processors",
            "flatlined": "does not answer at all",
            "leaking": "takes more memory every hour",
            "split-brain": "has two leaders at once",
            "thundering": "is flooded with repeated requests",
            "stale": "serves old data",
            "crashlooping": "restarts again and again",
            "throttled": "is being slowed down on purpose",
        },
        "trigger": {
            "post-cutover": "after moving to the new data centre",
            "on canary": "after the trial release",
            "since cert roll": "after renewing its certificates",
            "w/ noisy nbr": "beside another heavy tenant",
            "after GC tune": "after changing how memory is freed",
            "on spot nodes": "on machines that can be taken away",
            "under fan-out": "when one call leads to many others",
            "post-failover": "after switching to the spare site",
            "mid-backfill": "while old records are being rewritten",
        },
        "action": {
            "page L2": "wake the second line of support",
            "drain + cordon": "move all work away from the machine",
            "roll back": "return to the previous version",
            "shed load": "turn away the less important requests",
            "flip the flag": "switch the feature off",
            "bump the quota": "allow it more resources",
            "fail open": "let requests through unchecked",
            "snap + wipe": "copy the disk and start empty",
        },
    },
    document="Runbook. {service} {symptom} {trigger}. What to do: {action}.",
    queries=("{service} {symptom} {trigger}, {action}?", "{action} - {service} {symptom} {trigger}"),
)

# Everyday words on both sides: nothing an expert could translate, and nothing the base finds trivial.
GARDEN = Domain(
    slots={
        "plant": {
            "tomatoes": "tomato",
            "roses": "rose",
            "lavender": "lavender",
            "apple trees": "apple",
            "carrots": "carrot",
            "strawberries": "strawberry",
            "basil": "basil",
            "hydrangeas": "hydrangea",
            "garlic": "garlic",
            "grapevines": "grape",
        },
        "problem": {
            "leaves go pale": "iron deficiency",
            "something eats holes at night": "slugs",
            "a white film appears": "powdery mildew",
            "they never bloom": "a lack of flowers",
            "they turned black after the cold": "frost damage",
            "they wilt though the soil is wet": "root rot",
            "sticky green bugs sit on the tips": "aphids",
            "they stay tiny": "stunted growth",
        },
        "place": {
            "on my balcony": "in containers",
            "in sticky soil": "in heavy clay",
            "under glass": "in a greenhouse",
            "near the beach": "in salty wind",
            "behind the house where no sun comes": "in full shade",
            "in boxes": "in raised beds",
            "on the hillside": "on a slope",
        },
        "cure": {
            "feed them": "compost",
            "let them dry out": "less watering",
            "cut them back": "hard pruning",
            "spray them": "a copper spray",
            "cover the ground": "a layer of mulch",
            "start in February": "earlier sowing",
            "put a net over": "fine netting",
            "sweeten the soil": "lime",
        },
    },
    document="{plant}, grown {place}. Common complaint: {problem}. Remedy: {cure}.",
    queries=(
        "{plant} {place}: {problem}, should I {cure}?",
        "{problem} ({plant}, {place}), does it help to {cure}",
    ),
)

DOMAINS = {"ward": WARD, "notam": NOTAM, "latin": LATIN, "ops": OPS, "garden": GARDEN}
UNSEEN = ("garden",)
"""Domains without train and dev queries: no expert knows them."""


def write_collection(directory: Path, domain: Domain, *, with_train: bool, seed: int) -> None:
    """Write one collection in the BEIR layout."""
    rng = random.Random(seed)
    combinations = list(itertools.product(*domain.slots.values()))
    chosen = rng.sample(combinations, DOCUMENTS)
    names = tuple(domain.slots)
    plain: list[Callable[[str], str]] = [facts.__getitem__ for facts in domain.slots.values()]
    (directory / "qrels").mkdir(parents=True, exist_ok=True)
    corpus, queries = [], []
    judged: dict[str, list[str]] = {split: ["query-id\tcorpus-id\tscore"] for split in SHARES}
    limits = list(itertools.accumulate(SHARES.values()))
    for number, combination in enumerate(chosen):
        facts = {
            name: translate(short) for name, translate, short in zip(names, plain, combination, strict=True)
        }
        corpus.append({"_id": f"d{number}", "title": domain.title, "text": domain.document.format(**facts)})
        split = list(SHARES)[sum(number >= limit * DOCUMENTS for limit in limits[:-1])]
        for variant in range(QUERIES_PER_DOCUMENT):
            text = domain.queries[variant].format(**dict(zip(names, combination, strict=True)))
            queries.append({"_id": f"q{number}-{variant}", "text": text})
            judged[split].append(f"q{number}-{variant}\td{number}\t1")
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (directory / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    for split in SHARES if with_train else ("test",):
        (directory / "qrels" / f"{split}.tsv").write_text("\n".join(judged[split]) + "\n", encoding="utf-8")


def write_all(root: Path) -> dict[str, Path]:
    """Write every collection below ``root``; returns name → folder."""
    for seed, (name, domain) in enumerate(DOMAINS.items()):
        write_collection(root / name, domain, with_train=name not in UNSEEN, seed=seed)
    return {name: root / name for name in DOMAINS}


if __name__ == "__main__":
    for folder in write_all(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output/collections")).values():
        print(folder)
