"""Replays a workload under a policy: the gateway's own scheduler with modelled engines on a virtual clock."""
