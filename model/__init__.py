"""FakeVLM as a library: load, judge, explain, finetune. It can be used alone, without the service."""
