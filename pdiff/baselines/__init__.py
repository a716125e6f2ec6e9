"""The groups of models that generated ones are compared with; importing it fills the registry."""

from pdiff.baselines import latents, originals

__all__ = ["latents", "originals"]
