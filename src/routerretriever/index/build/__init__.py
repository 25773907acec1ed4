"""Putting any number of documents into an index: pieces, encoded anywhere, become one new version.

    sources.py   what is to be indexed, cut into pieces
    work.py      one piece: read, compared with the index, encoded, written; recorded once it is whole
    commit.py    all pieces: duplicates, what is gone, one atomic commit
    build.py     the order of these, who may build, and what is told in the end
    files.py     records on a local disk or an object store

A piece whose record stands is never done again, so that a build goes on where a kill, a full disk or a lost machine
ended it, and a piece that was done twice counts once.
"""
