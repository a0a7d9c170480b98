"""Workloads of traces and made-up crowds before modelled engines: what the policies are worth, by the product's own replay."""
