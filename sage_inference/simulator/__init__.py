"""Simulated vLLM and TEI engines: real HTTP servers whose answers state that they are simulated."""
