"""``routerretriever train MODEL --again MODEL2``: the experts of another model, trained anew."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from routerretriever.cli.common import keep_trained
from routerretriever.cli.formatting import err, points, print_json, say
from routerretriever.errors import NoGainError
from routerretriever.progress import Bars

if TYPE_CHECKING:
    from routerretriever.lora.expert_info import ExpertInfo
    from routerretriever.model import RouterRetriever


def train_anew(
    path: Path,
    former: str,
    name: str | None,
    opened: Callable[[], RouterRetriever],
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Train the experts that a former model remembers for the model in a folder, and save each when it is trained.

    Those that the model has already are left, so that the same command continues after a kill. ``opened`` gives
    the model, which takes seconds, when all data is known to be there.
    """
    from routerretriever.experts.train import train_expert
    from routerretriever.experts.train_again import remembered_experts

    remembered = remembered_experts(former, [] if name is None else [name])
    model = opened()
    trained: list[dict[str, Any]] = []
    kept, without_gain = [], []
    for expert in remembered:
        if expert.is_made_for(model) and not force:
            kept.append(expert.name)
            continue
        config = expert.config_for(model)
        try:
            report = train_expert(
                model, expert.collections, name=expert.name, config=config, force=force, progress=Bars()
            )
        except NoGainError as error:
            without_gain.append(expert.name)
            say(str(error), err)
            continue
        added = keep_trained(path, model, expert.name, force=force)
        trained.append(report.to_dict() | {"expert": added})
        if not as_json:
            now, before = _measured(report.info), _measured(expert.info)
            say(
                Text.assemble(
                    (added, "bold"), f": held-out nDCG@10 {now}, p = {report.p_value:.3g}; before {before}"
                )
            )

    if as_json:
        outcome = {"trained": trained, "kept": kept, "without_gain": without_gain}
        print_json({"model": str(path), "from": former, **outcome})
        return
    if kept:
        say(f"Trained before: {', '.join(kept)}.")
    places = {data.place: None for expert in remembered for data in expert.info.trained_on_data}
    say(f"Next: routerretriever library {path} {shlex.join(places)}")


def _measured(info: ExpertInfo) -> str:
    gain = points(info.gain, signed=True)
    return f"{points(info.expert_ndcg)}, base {points(info.base_ndcg)} ({gain} points)"
