"""The retraining worker: takes the run that is asked for, and brings it to its end (`python -m workers.retraining`)."""
