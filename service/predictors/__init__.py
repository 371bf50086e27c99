"""Versions of accuracy predictors, and fitting them again with verified candidates."""
