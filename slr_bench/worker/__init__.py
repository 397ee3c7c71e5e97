"""The child process: a job becomes a workload, probes and a result. May import torch."""
