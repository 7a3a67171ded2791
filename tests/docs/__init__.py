"""What the documents show is done: every command block is run against a real service, and its output compared."""
