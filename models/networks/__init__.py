"""Whole networks: frames to features, clips to logits."""
