"""The protocol as a model of its own: every interleaving within small bounds, and the real code driven along it."""
