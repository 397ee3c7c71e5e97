"""Stand-ins for tensor contents and for a GPU."""
