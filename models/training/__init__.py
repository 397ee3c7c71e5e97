"""The training loop and what it needs: memory readings, checkpoints."""
