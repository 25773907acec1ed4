"""Arithmetic that everything else is built on: exact search, reduced precision, attention over short queries."""
