"""Is it new? One analysis of the generated models after another, and the report."""
