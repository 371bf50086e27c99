"""Candidates: the architectures that a search answers with, and the fronts they form."""
