"""Base nets by name; their training, the fine-tuning of a subset, checkpoints from elsewhere."""
