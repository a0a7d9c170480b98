"""A gateway is killed under load while another one stands by: what callers saw of it."""
