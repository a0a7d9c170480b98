"""A small process for each engine: parent of the engine, owner of its log, its lock and its exit status."""
