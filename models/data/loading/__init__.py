"""From clips to batches of tensors."""
