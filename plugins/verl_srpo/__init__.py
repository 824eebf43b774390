"""SRPO for verl: the residual-sensitive reward, the bonus-calibrated advantage, the trainer that joins them, and a CPU room."""
