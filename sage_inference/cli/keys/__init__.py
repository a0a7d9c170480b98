"""``sage inference keys``: one module a command."""
