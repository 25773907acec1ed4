"""Feedback: clicks and judgements show where the experts help.

The experts do not change. A log is read line by line (:mod:`~routerretriever.feedback.log`), every expert's gain is
estimated on the documents that were shown (:mod:`~routerretriever.feedback.gains`), queries are grouped
(:mod:`~routerretriever.feedback.groups`), and groups with significant gains become pilots in a batch of its own that
can be undone (:mod:`~routerretriever.feedback.apply`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from routerretriever.feedback.apply import apply_feedback, undo_feedback
    from routerretriever.feedback.config import FeedbackConfig
    from routerretriever.feedback.outcome import FeedbackReport

__all__ = ["FeedbackConfig", "FeedbackReport", "apply_feedback", "undo_feedback"]
_MODULE_OF = {
    "apply_feedback": "apply",
    "undo_feedback": "apply",
    "FeedbackConfig": "config",
    "FeedbackReport": "outcome",
}


def __getattr__(name: str) -> Any:
    """Import a name on first use: a server reads feedback, and does without what applies it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'routerretriever.feedback' has no attribute '{name}'")
    return getattr(import_module(f"routerretriever.feedback.{_MODULE_OF[name]}"), name)
