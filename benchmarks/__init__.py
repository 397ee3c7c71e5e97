"""The one place where the recogniser and the bench meet: registered workloads."""
