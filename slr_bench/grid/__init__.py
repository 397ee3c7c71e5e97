"""What to run: a grid file becomes cells. Imports no torch."""
