"""Traces: the trace context of requests, and their spans, which are exported to a collector."""
