"""What a policy would do with a workload: the gateway's own scheduler before modelled engines, on a virtual clock."""
