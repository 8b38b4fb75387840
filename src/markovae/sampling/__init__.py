"""Sampling: one loop, many samplers; grids, guidance, editing."""
