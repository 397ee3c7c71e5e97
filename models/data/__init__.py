"""Clips from disk: manifest, decoding, loading, and rendered signs."""
