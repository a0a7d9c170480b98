"""Limits by key: what a caller's key may use in a minute, in a day and at once, and of which models."""
