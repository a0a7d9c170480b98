"""``top``: the gateway live in the terminal. The content of the screen is decided apart from the terminal."""
