"""Python clients: one face for chat, text and embeddings, whether a gateway runs or not."""
