"""Every byte of one step: live tensor bytes as operators make and drop them, on real or fake tensors."""
