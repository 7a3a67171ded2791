"""The demo checkpoint: the recipe that trains it, the held-out images that measure it, and the samples it is shown on.

`python -m model.demo build` rebuilds it on a CPU; `python -m model.demo evaluate` measures it again. It is not FakeVLM.
"""
