"""What people look at. Imports nothing, so that the command line starts without matplotlib and jinja2."""
