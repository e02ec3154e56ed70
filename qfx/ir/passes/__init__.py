"""Passes: pure functions from Graph to Graph. ``pipeline.py`` lists them in order."""
