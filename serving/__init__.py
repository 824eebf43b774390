"""Recommendations for people: a command, an HTTP service and its page, around one model. Imports gream only."""
