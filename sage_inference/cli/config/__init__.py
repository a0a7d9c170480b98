"""``sage inference config``: one module a command."""
