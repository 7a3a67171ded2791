"""Labelled images from the files people have: FakeClue, LOKI, DD-VQA, or folders named real and fake."""
