"""What every stage of GREAM shares: semantic ids, dialogue, decoding, configuration and run folders."""

__version__ = "0.1.0"
