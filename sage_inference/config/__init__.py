"""The configuration: the schema, the YAML file, the environment."""
