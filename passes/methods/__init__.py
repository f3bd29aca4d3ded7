"""Published algorithms, one per file, each composed of passes, scores, inits and triggers."""
