"""Semantic ids: vocabulary, catalog, prefix trie, residual k-means, quality, and the model that speaks them."""
