"""What holds no number: errors, paths, resumable state, speed, the processor's instructions."""
