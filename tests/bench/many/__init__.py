"""Several gateways and a standby, before modelled engines on a virtual clock."""
