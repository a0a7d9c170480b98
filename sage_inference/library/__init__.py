"""The gateway as a library: in a script, a notebook, or mounted into another application."""
