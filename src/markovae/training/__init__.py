"""Training: `fit`, the one loop, yields its steps; nothing here writes files."""
