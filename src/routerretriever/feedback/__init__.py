"""Feedback: clicks and judgements show where the experts help.

The experts do not change. A log is read line by line (:mod:`~routerretriever.feedback.log`), every expert's gain is
estimated on the documents that were shown (:mod:`~routerretriever.feedback.gains`), queries are grouped
(:mod:`~routerretriever.feedback.groups`), and groups with significant gains become pilots in a batch of its own that
can be undone (:mod:`~routerretriever.feedback.apply`).
"""

from routerretriever.feedback.apply import apply_feedback, undo_feedback
from routerretriever.feedback.config import FeedbackConfig
from routerretriever.feedback.outcome import FeedbackReport

__all__ = ["FeedbackConfig", "FeedbackReport", "apply_feedback", "undo_feedback"]
