"""The search for the fastest setting that fits a memory budget."""
