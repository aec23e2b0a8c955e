"""Architecture search with a trained super-network."""
