"""The commands of ``service``."""
