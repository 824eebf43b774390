"""Decoding: chains of reasoning, and items through the prefix trie of the catalogue."""
