"""Lists that are counted, not trained: baselines, and item scores to fuse a model with."""
