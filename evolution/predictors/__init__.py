"""Predictors of accuracy and latency, fitted to measured pairs."""
