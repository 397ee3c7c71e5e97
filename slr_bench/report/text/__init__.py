"""Settings, metrics and outcomes as text."""
