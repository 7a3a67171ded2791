"""The domain that api and workers share: cases and all that happens to them. No HTTP, no broker, no GPU."""
