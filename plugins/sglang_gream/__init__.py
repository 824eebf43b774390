"""SGLang's own beam search, confined to a catalogue: one request per list. SGLang finds it by its entry point."""
