"""Building blocks: temporal shift, attention, pyramid pooling, recomputation."""
