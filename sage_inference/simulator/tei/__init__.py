"""A simulated TEI, after the source of text-embeddings-inference 1.9.3."""
