"""Where a job runs, and how it ends. Knows nothing of grids."""
