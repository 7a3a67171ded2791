"""Supervised finetuning of a LLaVA from FakeClue-format records, full or LoRA."""
