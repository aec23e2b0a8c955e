"""Model folders with cards, and their publication on the Hugging Face Hub."""
