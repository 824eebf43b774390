"""SRPO for verl: residual-sensitive reward, bonus-calibrated advantage, the trainer that joins them, and a CPU room."""
