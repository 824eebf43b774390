"""LLaMA-Factory plugin: compact GREAM task records become training rows at load time.

Importing the package is cheap: neither torch nor LLaMA-Factory is loaded before `registration.register` is called.
"""
