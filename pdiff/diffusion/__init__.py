"""The diffusion model on latents (paper, Section 2.4): schedule, denoiser, latents, fit."""
