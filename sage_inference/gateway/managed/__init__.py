"""The engines that one gateway manages, and the requests that wait for them."""
