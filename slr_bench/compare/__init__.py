"""Compare two sides of a measurement: statistics over processes, verdicts per cell, and rules for a gate."""
