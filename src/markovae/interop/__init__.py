"""Models that move to and from diffusers, and anybody's denoiser as a `Diffusion`; diffusers itself is not used."""
