"""The output of each command in the terminal."""
