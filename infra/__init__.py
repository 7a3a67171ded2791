"""How Telltale is run: the command line, the embedded services, the demo. Nobody imports it."""
