"""Requests and answers of the API, as OpenAPI shows them; every field has an example."""
