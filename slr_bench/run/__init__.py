"""Runs the cells of a grid: one process and one record per run."""
