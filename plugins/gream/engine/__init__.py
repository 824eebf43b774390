"""The engine: a history in, a list of items out, wherever the model runs. Evaluation, serving and benchmarks use it."""
