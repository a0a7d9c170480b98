"""The commands below ``engine``."""
