"""What every stage of GREAM shares: semantic ids, dialogue, decoding, configuration and run folders."""

__version__ = "0.2.0.dev0"
