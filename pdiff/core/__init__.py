"""What every stage computes with: files, devices and seeds, learning curves, one training step."""
