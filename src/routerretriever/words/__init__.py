"""Search by words: text indexes, and one ranking made from words and vectors."""
