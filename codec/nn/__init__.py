"""Layers, encoders and decoders: every one steps, with its state as a value."""
