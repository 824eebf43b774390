"""What follows ``<answer>`` confined to a catalogue, inside vLLM: a logits processor, for servers and for rollouts."""
