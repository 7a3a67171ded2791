"""What `telltale doctor` looks at: everything that Telltale stands on, and every process of its own."""
