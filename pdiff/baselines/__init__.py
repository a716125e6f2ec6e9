"""The groups of models that generated ones are compared with."""
