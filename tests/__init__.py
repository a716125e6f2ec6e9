"""A package of its own, since other projects install one of this name (torch-fidelity does)."""
