"""Reranking: a cross-encoder reads query and document together and orders the best documents again."""
