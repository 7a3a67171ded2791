"""What runs the network: one module per engine, behind the protocol in `engine`."""
