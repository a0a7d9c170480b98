"""The usage of models by key and user, hour by hour."""
