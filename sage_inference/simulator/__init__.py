"""Simulated vLLM and TEI engines: real HTTP servers, honest about being simulated."""
