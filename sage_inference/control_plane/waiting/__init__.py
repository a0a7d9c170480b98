"""Requests that wait: in which order, and whose turn it is."""
