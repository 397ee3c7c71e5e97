"""Checks what this machine can measure, with a cure for everything that it cannot."""
