"""The recipes, a complete file for each run; installed as ``gream_recipes``, so that ``gream`` finds them by name."""
