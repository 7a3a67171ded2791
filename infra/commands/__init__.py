"""One module for each subcommand of `telltale`; the command line imports only the one it runs."""
