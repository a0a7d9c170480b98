"""The commands for engines that a Ray cluster places. They speak with Ray's dashboard, and load no Ray."""
