"""What this machine can measure, and the cure for what it cannot."""
