"""Sources that name engines of other machines: a file, a DNS name, a Ray cluster."""
