"""From moderators' answers to what a model is trained on and measured on, and the runs in which that happens.

It knows rows and the object store; nothing of networks, which are the workers' business.
"""
