"""Networks of the prior: out = net(z, log-SNR, condition)."""
