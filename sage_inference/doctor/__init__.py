"""Checks of this machine and of the gateway's setup, behind ``sage inference doctor``."""
