"""One module a command; a new file here is a new command."""
