"""What holds no number: errors, paths, resumable state, the processor's instructions."""
