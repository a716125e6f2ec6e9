"""Graph rewrites that make a traced net cheaper and change no result."""
