"""A load generator for any OpenAI-compatible server. It reports its own limits too."""
