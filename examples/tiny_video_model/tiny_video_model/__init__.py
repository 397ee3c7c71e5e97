"""A video model of another project, measured by slr-bench."""
