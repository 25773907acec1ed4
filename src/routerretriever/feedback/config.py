"""How a log of use is read and weighed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from routerretriever.errors import FeedbackError
from routerretriever.validation import named_errors

OnError = Literal["stop", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class FeedbackConfig:
    """How a log of use is read and weighed.

    Attributes:
        position_bias: exponent η of the probability 1 / rank^η that a document is looked at; clicks are
            corrected for it, and 0 corrects nothing.
        clip: largest weight of a click.
        min_clicks: a group of queries with fewer clicked or relevant documents is not applied.
        weight: of a logged query; a query that was measured with judgements weighs 1.
        on_error: ``stop`` at the first line that cannot be used, or ``skip`` such lines.

    Raises:
        FeedbackError: a value is out of its range.
    """

    position_bias: Annotated[float, Field(ge=0.0, le=3.0)] = 1.0
    clip: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 10.0
    min_clicks: Annotated[int, Field(ge=1)] = 30
    weight: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    on_error: OnError = "stop"

    _named = named_errors(FeedbackError)
