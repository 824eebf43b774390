"""Evaluation: baselines, both modes of a model, metrics with intervals, tables and a report. Imports gream only."""
