"""HTTP/1.1 bytes and the event loop: heads, chunks, codings, timers. Nothing here knows the rest of the package."""
