"""The laboratory of the lecture: other chains, toys with known truth, laws of the gap, and the checks of `verify`."""
