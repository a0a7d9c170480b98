"""What the gateway can be told: the schema, the YAML file, the environment."""
