"""The public REST API, one endpoint a file."""
