"""Networks whose features images are compared in."""
