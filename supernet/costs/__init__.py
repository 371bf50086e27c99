"""Costs of architectures from operator records: FLOPs, parameters, file size, peak memory. numpy only."""
