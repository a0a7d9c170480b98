"""The live document: the gateway's state once a second, for all viewers together and only while there are any."""
