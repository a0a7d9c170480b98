"""The gateway as a service of systemd: installed, removed and described."""
