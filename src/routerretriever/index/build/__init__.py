"""Putting any number of documents into an index as one new version.

The source is cut into chunks (``chunks``), whose rows are read (``read_chunk``), compared with
the index, encoded and written anywhere (``worker``). What became of a chunk is recorded once it
is whole (``chunk_result``, ``folder``). At the end all results are put together
(``all_results``) and committed at once (``build``), while a lock (``lock``) keeps other builds
away.

A chunk with a result is never done again, so that a build continues where a kill, a full disk
or a lost machine ended it, and a chunk that was done twice counts once.
"""
