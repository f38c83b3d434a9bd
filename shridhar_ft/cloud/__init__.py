"""`shridhar-ft cloud`: what rents a machine and runs a recipe on it, written from the recipe and its plan."""
