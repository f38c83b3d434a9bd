"""What a person sees of a run from elsewhere: live figures, state, word of its ends, TensorBoard and the like."""
