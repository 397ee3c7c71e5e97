"""Everything that a person reads. Imports nothing, so that commands start without matplotlib and jinja2."""
