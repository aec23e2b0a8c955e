"""Studies: trunks, splits from their milestones, and rankings of all."""
