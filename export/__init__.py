"""Graphs for other engines."""
