"""Files of logs that rotate: written by one process, read by others."""
