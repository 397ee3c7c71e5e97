"""Rendered sign-language clips: ``python -m models.data.synthetic``."""
