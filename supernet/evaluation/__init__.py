"""The accuracy of extracted subnets, after batch-norm recalibration."""
