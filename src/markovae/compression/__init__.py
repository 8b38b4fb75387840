"""Lossless compression at the measured bits/dim: bits-back coding along the chain, and the file that holds it."""
