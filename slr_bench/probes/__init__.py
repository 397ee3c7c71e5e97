"""Meters. Each is a context manager around the work that ends in readings."""
