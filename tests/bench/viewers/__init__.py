"""What viewers of the live state cost: ten pages and ``top``, against none."""
