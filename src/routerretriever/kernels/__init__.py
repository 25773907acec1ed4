"""Arithmetic that everything else stands on: exact search, reduced precision, attention over short queries."""
