"""`shridhar-ft doctor`: what this machine is, which configuration suits it, what is missing, do engines agree."""
