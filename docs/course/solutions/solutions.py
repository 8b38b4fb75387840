"""One right answer to every exercise of the course. Try first: `markovae verify --exercise all` lists the tasks."""

import math

import torch
import torch.nn.functional as F

# 1 Markovian VAEs and the bound, by enumeration


def prior_log_prob(path, top, prior):
    total = torch.log(top[path[-1]])
    for level in range(len(prior)):
        total = total + torch.log(prior[level, path[level + 1], path[level]])
    return total


def marginal(top, prior):
    for step in reversed(prior):
        top = top @ step
    return top


def path_cost(path, encoder, top, prior):
    down = torch.log(top[path[-1]])
    up = 0.0
    for level in range(len(prior)):
        down = down + torch.log(prior[level, path[level + 1], path[level]])
        up = up + torch.log(encoder[level, path[level], path[level + 1]])
    return up - down


def enumerated_bound(letter, encoder, top, prior):
    total = 0.0
    for rest in torch.cartesian_prod(*[torch.arange(len(top))] * len(prior)).reshape(-1, len(prior)):
        path = [letter, *rest.tolist()]
        weight, ratio = 1.0, 1.0 / top[path[-1]]
        for level in range(len(prior)):
            up = encoder[level, path[level], path[level + 1]]
            weight = weight * up
            ratio = ratio * up / prior[level, path[level + 1], path[level]]
        total = total + weight * torch.log(ratio)
    return total


def kl_divergence(p, q):
    return (p * torch.log(p / q)).sum()


def exact_reverse(data, step):
    joint = data[:, None] * step
    return (joint / joint.sum(0)).T


# 2 The Gaussian chain


def encoder_step(z_prev, step_noise, sigma):
    return math.sqrt(1 - sigma**2) * z_prev + sigma * step_noise


def signal_scale(sigmas):
    return torch.sqrt(torch.prod(1 - sigmas**2))


def noise_scale(sigmas):
    return torch.sqrt(1 - torch.prod(1 - sigmas**2))


def logsnr(signal):
    return torch.log(signal**2 / (1 - signal**2))


def scales_of(logsnr):
    return torch.sqrt(torch.sigmoid(logsnr)), torch.sqrt(torch.sigmoid(-logsnr))


def step_variance(logsnr_prev, logsnr):
    return -torch.sigmoid(-logsnr) * torch.expm1(logsnr - logsnr_prev)


def posterior_mean(x, z, logsnr_prev, logsnr):
    a_prev, a = torch.sqrt(torch.sigmoid(logsnr_prev)), torch.sqrt(torch.sigmoid(logsnr))
    s2_prev, s2 = torch.sigmoid(-logsnr_prev), torch.sigmoid(-logsnr)
    alpha = a / a_prev
    variance = -s2 * torch.expm1(logsnr - logsnr_prev)
    return (alpha * s2_prev * z + a_prev * variance * x) / s2


def posterior_variance(logsnr_prev, logsnr):
    return -torch.sigmoid(-logsnr_prev) * torch.expm1(logsnr - logsnr_prev)


def gaussian_entropy(eigenvalues):
    return torch.log(2 * math.pi * math.e * eigenvalues).sum() / 2


def exact_denoiser(z, mean, variance, logsnr):
    a, s2 = torch.sqrt(torch.sigmoid(logsnr)), torch.sigmoid(-logsnr)
    gain = a * variance / (a**2 * variance + s2)
    return mean + gain * (z - a * mean)


# 3 The endpoint rule and the SDE limit


def endpoint_levels(sigma, delta):
    levels = math.ceil(round(2 * math.log(delta) / math.log1p(-(sigma**2)), 9))
    tie = abs((1 - sigma**2) ** (levels / 2) / delta - 1) < 1e-9
    return levels + 1 if tie else levels


def time_of(signal):
    return -torch.log(signal)


def sde_marginal(x, noise, time):
    return torch.exp(-time) * x + torch.sqrt(-torch.expm1(-2 * time)) * noise


def sde_step(z, noise, dt):
    return z - z * dt + torch.sqrt(2 * dt) * noise


# 4 The bound's forms


def bayes_encoder(log_posterior, log_marginal, log_marginal_prev):
    return log_posterior + log_marginal - log_marginal_prev


def top_kl(x, logsnr):
    a2, s2 = torch.sigmoid(logsnr), torch.sigmoid(-logsnr)
    return (s2 + a2 * x**2 - 1 - torch.log(s2)).sum(1) / 2


def level_kl(x, x_hat, logsnr_prev, logsnr):
    return (torch.exp(logsnr_prev) - torch.exp(logsnr)) * ((x - x_hat) ** 2).sum(1) / 2


def gaussian_kl(mean, variance, other_mean, other_variance):
    ratio = variance / other_variance
    return (ratio + (mean - other_mean) ** 2 / other_variance - 1 - torch.log(ratio)).sum(1) / 2


# 5 Targets


def x_from_noise(z, noise, logsnr):
    return (z - torch.sqrt(torch.sigmoid(-logsnr)) * noise) / torch.sqrt(torch.sigmoid(logsnr))


def velocity(x, noise, logsnr):
    return torch.sqrt(torch.sigmoid(logsnr)) * noise - torch.sqrt(torch.sigmoid(-logsnr)) * x


def x_from_velocity(z, velocity, logsnr):
    return torch.sqrt(torch.sigmoid(logsnr)) * z - torch.sqrt(torch.sigmoid(-logsnr)) * velocity


def score(x, z, logsnr):
    return (torch.sqrt(torch.sigmoid(logsnr)) * x - z) / torch.sigmoid(-logsnr)


def expected_step_noise(noise, logsnr_prev, logsnr):
    return torch.sqrt(-torch.expm1(logsnr - logsnr_prev)) * noise


def mean_from_step_noise(z, step_noise, sigma):
    return (z - sigma * step_noise) / math.sqrt(1 - sigma**2)


def mean_from_noise(z, noise, logsnr_prev, logsnr):
    s2 = torch.sigmoid(-logsnr)
    alpha = torch.sqrt(torch.sigmoid(logsnr) / torch.sigmoid(logsnr_prev))
    variance = -s2 * torch.expm1(logsnr - logsnr_prev)
    return (z - variance / torch.sqrt(s2) * noise) / alpha


def gradient_ratio(rho, error):
    return 1 + (1 - rho**2) / (rho**2 * error)


# 6 Pixels and the U-Net


def pixels_to_x(values):
    return values.double() / 127.5 - 1


def group_norm(x, groups):
    grouped = x.reshape(len(x), groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    return (centred / torch.sqrt((centred**2).mean(2, keepdim=True) + 1e-5)).reshape(x.shape)


def attention(query, key, value):
    return F.softmax(query @ key.T / math.sqrt(query.shape[1]), 1) @ value


def ema_update(average, weight, decay):
    return decay * average + (1 - decay) * weight


def sinusoidal(values, dim):
    half = dim // 2
    angles = values[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    return torch.cat([torch.cos(angles), torch.sin(angles)], 1)


# 7 Bits where they go


def bits_per_dim(nats, dims):
    return nats / dims / math.log(2)


def bound_total(prior, levels, reconstruction):
    return prior + levels.sum(1) + reconstruction


def pixel_log_prob(x, mean, scale):
    upper, lower = (x + 1 / 255 - mean) / scale, (x - 1 / 255 - mean) / scale
    upper = torch.where(x > 1 - 1e-6, torch.inf, upper)
    lower = torch.where(x < -1 + 1e-6, -torch.inf, lower)
    # A difference of two numbers near one loses its digits: take it in the nearer tail.
    flip = lower > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    return torch.log(torch.special.ndtr(upper) - torch.special.ndtr(lower))


def estimate_levels(costs, probabilities):
    return (costs / probabilities).mean()


def standard_error(values):
    return values.std() / math.sqrt(len(values))


def noise_error_nats(error, width):
    return (error * width).sum() / 2


# 8 Samplers


def ddim_step(z, x_hat, logsnr, logsnr_next):
    noise = (z - torch.sqrt(torch.sigmoid(logsnr)) * x_hat) / torch.sqrt(torch.sigmoid(-logsnr))
    return torch.sqrt(torch.sigmoid(logsnr_next)) * x_hat + torch.sqrt(torch.sigmoid(-logsnr_next)) * noise


def ancestral_step(z, x_hat, noise, logsnr, logsnr_next):
    return posterior_mean(x_hat, z, logsnr_next, logsnr) + torch.sqrt(posterior_variance(logsnr_next, logsnr)) * noise


def extrapolated_x(x_hat, x_hat_before, width, width_before):
    return x_hat + (x_hat - x_hat_before) * width / width_before / 2


def flow_drift(z, x_hat):
    return -z - (x_hat / math.sqrt(2) - z) / 0.5


# 9 Captions and guidance


def guided(x_hat, x_hat_null, weight):
    return x_hat_null + weight * (x_hat - x_hat_null)


def caption_gain(without, with_caption):
    gain = without - with_caption
    return gain.mean(), gain.std() / math.sqrt(len(gain))


# 10 The codec


def bits_back(log_joint, log_encoder):
    return (log_encoder - log_joint) / math.log(2)


def coder_overhead(probabilities, counts):
    return (probabilities * torch.log2(probabilities / (counts / counts.sum()))).sum()
