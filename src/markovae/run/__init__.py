"""What `markovae train` drives: the folder of a run, its figures, checkpoints and pictures."""
