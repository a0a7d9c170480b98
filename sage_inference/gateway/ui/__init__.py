"""The page in a browser: its files, and the sessions in which it may call ``/admin``."""
