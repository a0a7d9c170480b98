"""HTTP out: connections to engines, and what their servers can be asked."""
