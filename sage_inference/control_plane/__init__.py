"""Decides which instance serves a request; never touches a socket."""
