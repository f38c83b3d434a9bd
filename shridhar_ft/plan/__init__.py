"""What a recipe needs before its first step: parameters, bytes, operations, hours, money. Nothing here loads torch."""
