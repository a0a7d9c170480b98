"""The page of metrics for Prometheus: one module for each kind of families."""
