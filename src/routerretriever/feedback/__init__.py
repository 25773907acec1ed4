"""Learning in use: what people clicked or judged tells where the experts help.

The experts stay as they are. A log is read line by line (:mod:`~routerretriever.feedback.log`), every expert's gain is
estimated on the documents that were shown (:mod:`~routerretriever.feedback.gains`), queries are put into groups that
are believed or not (:mod:`~routerretriever.feedback.groups`), and what is believed becomes pilots in a batch of its
own that can be taken back (:mod:`~routerretriever.feedback.core`).
"""

from routerretriever.feedback.core import FeedbackConfig, FeedbackReport, apply_feedback, undo_feedback

__all__ = ["FeedbackConfig", "FeedbackReport", "apply_feedback", "undo_feedback"]
