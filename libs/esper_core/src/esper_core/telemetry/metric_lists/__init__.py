"""One list per service; a service adds its metrics to its own list and nowhere else."""
