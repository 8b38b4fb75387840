"""Checkpoints: bundles that are whole, verified before use, and never pickled."""
