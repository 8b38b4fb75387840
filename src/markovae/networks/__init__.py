"""`net(z, logsnr, condition) -> out`: U-Net, diffusion transformer, MLP and the DDPM family; conditioning."""
