"""Training: one loop that yields its steps, for `fit` and for runs; nothing here writes files."""
