"""Memory in pytest: the fixture ``memory_benchmark`` over pytest-benchmark's, and limits on the growth of bytes."""
