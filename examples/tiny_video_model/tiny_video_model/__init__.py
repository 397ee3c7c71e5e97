"""A video model of somebody else, measured by slr-bench."""
