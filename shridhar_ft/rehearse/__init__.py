"""`shridhar-ft rehearse`: the very recipe, shrunk, through every part here, and what it would stumble over there."""
