"""Cells in isolation: one process each, one record each."""
