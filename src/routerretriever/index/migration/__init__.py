"""Giving an index another base while it is searched and written.

A linear map (``bridge``) takes queries of the new base to the old vectors at once. Beside the index a second
one is filled with the same documents, encoded by the new base (``staged``); what was encoded is kept after a
kill. At the end its rows replace the old ones in one version (``migrate``), while a lock keeps writers away.
"""
