"""Load generators: each runs in a process of its own, on the engines' core."""
