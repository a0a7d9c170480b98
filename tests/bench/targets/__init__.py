"""What is measured: direct access, this gateway, and the peers."""
