"""What was promised to those who use the API and its webhooks is kept: documents are compared with recorded ones."""
