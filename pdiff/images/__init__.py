"""Batches of one split on the device: pixels, augmentation, decoding."""
