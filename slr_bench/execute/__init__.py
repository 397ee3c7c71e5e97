"""Where a job runs: the local fork server today."""
