"""How good samples are: distances to real images with their errors and their floor."""

from markovae.quality.assessing import Draw, assess, assess_images
from markovae.quality.extractors import EXTRACTORS, Extractor, open_extractor
from markovae.quality.frechet import frechet_distance
from markovae.quality.manifold import PrecisionRecall, precision_recall
from markovae.quality.memory import Memorisation, memorisation
from markovae.quality.mmd import kid, kid_difference
from markovae.quality.record import Conditions, Quality, compare

__all__ = [
    "EXTRACTORS",
    "Conditions",
    "Draw",
    "Extractor",
    "Memorisation",
    "PrecisionRecall",
    "Quality",
    "assess",
    "assess_images",
    "compare",
    "frechet_distance",
    "kid",
    "kid_difference",
    "memorisation",
    "open_extractor",
    "precision_recall",
]
