"""Shows that merging changes no vector and gives none to another text: all that passes is recorded and compared."""
