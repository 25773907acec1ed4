"""Documents, queries and relevance judgements, from wherever users keep them."""
