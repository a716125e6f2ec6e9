"""Image sets by name, read and split; only `prepare_data` needs them."""
