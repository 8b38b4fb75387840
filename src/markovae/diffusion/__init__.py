"""The model: the Markovian VAE and its bound, the Gaussian chain, and `Diffusion`, made of its parts."""
