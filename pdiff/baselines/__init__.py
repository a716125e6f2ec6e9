"""The groups of models that generated ones are compared with; importing it fills the registry."""

from pdiff.baselines import latents, originals, zoos

__all__ = ["latents", "originals", "zoos"]
