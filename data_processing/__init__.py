"""From a raw dump to everything training reads: one module per stage, ``python -m data_processing STAGE``."""
