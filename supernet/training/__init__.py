"""Training a supernet: samplers of subnets, schedules, batches, checkpoints, several processes."""
