"""Before there is a GPU: what a step will need, and which setting fits."""
