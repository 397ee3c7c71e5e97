"""A simulation of torch's caching allocator, and recordings of the real one to check it with."""
