"""What a run ends with: merged weights, model card, and the certificate that they are what was trained."""
