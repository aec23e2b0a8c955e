"""Files and the machine: what has nothing to do with super-networks."""
