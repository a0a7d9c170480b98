"""One OpenAI-compatible endpoint in front of the vLLM and TEI engines of a workstation."""

__version__ = "0.1.0"
