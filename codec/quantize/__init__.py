"""Bottlenecks: latent in, codes out, and back."""
