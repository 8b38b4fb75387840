r"""P_pri(z_0 | z_1): the probability of the pixels themselves, in nats, or the density of a continuous variable."""

from markovae.decoder.base import Decoder
from markovae.decoder.density import DensityDecoder
from markovae.decoder.discretised import DiscretisedGaussian, log_difference
from markovae.decoder.gaussian import HoLargeDecoder, HoSmallDecoder, StepDecoder
from markovae.decoder.softmax import SoftmaxBins, SoftmaxDecoder

__all__ = [
    "Decoder",
    "DensityDecoder",
    "DiscretisedGaussian",
    "HoLargeDecoder",
    "HoSmallDecoder",
    "SoftmaxBins",
    "SoftmaxDecoder",
    "StepDecoder",
    "log_difference",
]
