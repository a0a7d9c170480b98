"""The log of scheduling decisions: in memory, as a document, and in a file."""
