"""Captions as conditions: text encoders, their features kept in the cache, and the conditioner of a model."""
