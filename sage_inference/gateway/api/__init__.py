"""The routes that the gateway itself answers."""
