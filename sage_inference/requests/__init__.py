"""From a request's head and body to what scheduling needs: routes, fields, limits, hints. No instance is known here."""
