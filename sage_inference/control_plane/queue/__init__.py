"""Requests that wait for an instance, and their order."""
