"""Networks whose features images are compared in."""

from markovae.quality.extractors.extractor import DEFAULT_EXTRACTOR, EXTRACTORS, Extractor, open_extractor

__all__ = ["DEFAULT_EXTRACTOR", "EXTRACTORS", "Extractor", "open_extractor"]
