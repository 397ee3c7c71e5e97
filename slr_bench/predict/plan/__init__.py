"""The search for the fastest setting that fits."""
