"""`make chaos`: faults under a steady stream of submissions to the real stack, and the reckoning afterwards."""
