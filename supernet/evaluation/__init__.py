"""Accuracy of extracted subnets, after their batch-norm statistics are recalibrated."""
