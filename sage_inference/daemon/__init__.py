"""One background process: lock, pidfile, spawn, readiness, signals."""
