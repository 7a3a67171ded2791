"""The HTTP edge: parses requests, calls one use case in moderation, renders the answer. No broker, no GPU."""
