"""An engine goes under load and comes back: what callers saw of it."""
