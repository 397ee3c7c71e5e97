"""Networks: the recogniser, its backbone, 3-D convolutional networks, and reading their weights."""
