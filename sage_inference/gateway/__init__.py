"""HTTP in: the relay for what goes to engines, the application for all else."""
