"""Devices: the probe that measures them, the measurements, and the latency models fitted to them."""
