"""The trainings of the derivation: what the lecture claims about learning, measured on digits and a toy."""
