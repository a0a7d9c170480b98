"""Counters and estimates that are learned from answers: tokens, rates, paces, shares."""
