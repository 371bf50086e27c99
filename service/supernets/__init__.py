"""Supernets that are registered from bundles."""
