"""What the figures of captions mean, in sentences."""

DIFFERENCE = (
    "bound difference: what the images cost without captions less what they cost with theirs, on the same levels and "
    "noise. It is the information between image and caption plus a difference of gaps: no bound on it, either way"
)
INFORMATION = (
    "a true lower bound on the information between image and caption: how surely the bound picks an image's own "
    "caption among {k}; it cannot exceed ln {k} = {ceiling:.2f}"
)
