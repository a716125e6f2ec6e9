"""Which parameters are generated: the subset, the stack of checkpoints, its normalisation."""
