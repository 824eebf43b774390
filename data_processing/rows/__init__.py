"""Training rows: alignment, reasoning and its curriculum for SFT, prompts for SRPO."""
