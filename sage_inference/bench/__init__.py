"""A load generator for any OpenAI-compatible server, which reports its own limits too."""
