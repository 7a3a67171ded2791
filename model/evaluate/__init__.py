"""Measuring a checkpoint on a labelled set: records in, metrics with intervals, a summary and a page out.

It knows checkpoints, detectors and images; nothing of training, and nothing of the service.
"""
