"""Before a reproduction: is everything there that it needs, and how long may it take? Checks apart from arithmetic."""
