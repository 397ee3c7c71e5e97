"""Memory in pytest: a ``memory_benchmark`` fixture over pytest-benchmark's, and limits on the growth of bytes."""
