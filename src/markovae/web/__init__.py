"""The local page of `markovae serve`: draw, measure and edit with a run in the browser; the run is only read."""
