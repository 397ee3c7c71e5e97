"""Measuring two source trees against each other."""
