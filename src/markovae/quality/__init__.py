"""How good samples are: distances to real images with their errors and their floor."""
