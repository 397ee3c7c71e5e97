"""Is it different? Summaries over processes, and what they allow to say."""
