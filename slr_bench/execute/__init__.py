"""Runs jobs in processes of their own. It knows nothing of grids."""
