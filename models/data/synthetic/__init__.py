"""Rendered sign-language clips: ``python -m models.data.synthetic``. No torch."""

from models.data.synthetic.dataset import render_dataset

__all__ = ["render_dataset"]
