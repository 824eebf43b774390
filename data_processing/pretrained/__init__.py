"""Pretrained language models: fetched, converted to transformers folders, and examined before they are extended."""
