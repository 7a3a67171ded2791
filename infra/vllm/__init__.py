"""Serving a checkpoint with vLLM as Telltale asks for it: the raw prompt's template, and the command."""
