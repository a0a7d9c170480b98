"""A load generator for any OpenAI-compatible server, which states what it can do itself."""
