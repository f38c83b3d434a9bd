"""The model: its RoPE (rope), how it is built or loaded (build), what its attention keeps apart (isolation)."""
