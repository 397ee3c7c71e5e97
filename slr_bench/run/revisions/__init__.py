"""Measures two source trees against each other."""
