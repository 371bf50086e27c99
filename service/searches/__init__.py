"""Searches: requests, the problems they pose, answers, and the verification of finalists."""
