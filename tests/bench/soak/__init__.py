"""Hours of mixed callers, dying engines and reloads: every answer is compared, and nothing may grow."""
