"""Callers that send requests without end on ten connections, and what another caller notices of it."""
