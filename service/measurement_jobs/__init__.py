"""Measurement jobs: finalists of searches that a probe on a device is to measure."""
