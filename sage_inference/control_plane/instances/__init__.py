"""The instances of a fleet: which there are, how they are, and how loaded they are."""
