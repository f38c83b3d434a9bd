"""Pages that a run explains itself with: self-contained HTML, plots as inline SVG, no script."""
