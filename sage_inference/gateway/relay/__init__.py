"""One request on its way: caller to engine and back."""
