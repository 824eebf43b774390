"""Who writes about items and users and argues in chains: a template or a language model, and what is accepted."""
