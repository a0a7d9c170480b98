"""Names that Ray has given, and those that our applications have there: for the source, the commands and the replicas."""

APPLICATIONS_PATH = "/api/serve/applications/"  # of the dashboard: all applications, with their replicas
RUNNING = "RUNNING"  # the state of an application, and of a replica
DIRECT_INGRESS = "RAY_SERVE_ENABLE_DIRECT_INGRESS"  # gives each replica a port of its own
HA_PROXY = "RAY_SERVE_ENABLE_HA_PROXY"  # hides these ports
REPLICA_ACTOR = (
    "SERVE_REPLICA::"  # begins the name of a replica's actor: SERVE_REPLICA::application#deployment#replica
)
APPLICATION = "sage-engines"  # begins the names of our applications; a file may have another one
DEPLOYMENT = "engine"  # the one deployment of each of them
