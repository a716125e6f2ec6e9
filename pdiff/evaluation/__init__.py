"""Parameters (M, D) -> predictions (M, N), paying only for what changed."""
