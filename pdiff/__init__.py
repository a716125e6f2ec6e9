"""Neural Network Diffusion (p-diff, arXiv 2402.13144v3): generate a net's parameters."""
