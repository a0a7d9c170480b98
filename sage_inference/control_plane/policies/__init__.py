"""One small class a scheduling policy."""
