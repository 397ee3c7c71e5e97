"""Turns a grid file into cells: the settings to run. Does not import torch."""
