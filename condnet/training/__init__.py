"""Training of super-networks and stand-alone networks."""
