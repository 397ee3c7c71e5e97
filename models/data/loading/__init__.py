"""Loading: decode clips into batches of tensors."""
