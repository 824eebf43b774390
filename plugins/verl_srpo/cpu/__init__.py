"""verl without an accelerator: platform, training engine and rollout for small models, on VERL_PLATFORM=cpu."""
