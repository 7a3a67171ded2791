"""The processes that do the work: the relay, and Celery workers by role."""
