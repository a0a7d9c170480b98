"""Several gateways, a standby, and fleets that follow demand, before modelled engines on a virtual clock."""
