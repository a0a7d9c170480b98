"""Python clients: one interface for chat, text and embeddings, with or without a running gateway."""
