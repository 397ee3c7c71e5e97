"""Scripts that prove the claims of the documentation."""
