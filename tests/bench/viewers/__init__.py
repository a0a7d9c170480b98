"""The cost of viewers of the live state: ten pages and ``top``, against none."""
