"""The live document: the gateway's state once a second. All viewers share it, and nothing is made while there are none."""
