"""How fast a model reads and says, for the generation bench and for eval."""
